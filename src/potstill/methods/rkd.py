from potstill.methods.base import Preset

PRESET = Preset(
    name="rkd",
    loss="potstill.losses.rkd:RKD",
    year=2019,
    compares="distances and angles between samples",
    at="penultimate",
    weight=1.0,
    weight_source="1 on 25 x distance + 50 x angle: RepDistiller's tables",
    use_when="embeddings and metric learning; vectors of any two sizes, no extra parameters",
    notes="A mean over pairs and triples, so the weight does not depend on the batch size; cost and memory grow as its cube.",
)
