from potstill.methods.base import Preset

PRESET = Preset(
    name="pkt",
    loss="potstill.losses.pkt:PKT",
    year=2018,
    compares="neighbourhoods of samples",
    at="penultimate",
    weight=30000.0,
    weight_source="30000: RepDistiller's tables",
    use_when="vectors of any two sizes; the cheapest relational loss, and strong beside its cost",
    notes="A mean over B x B probabilities: the weight belongs to batches of 64, and the loss shrinks about as 1 / B.",
)
