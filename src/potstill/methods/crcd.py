from potstill.methods.base import Preset

PRESET = Preset(
    name="crcd",
    loss="potstill.losses.crcd:CRCD",
    year=2021,
    compares="relations of embeddings and of gradients, contrasted with those of other samples",
    at="penultimate",
    weight={"from": 1.0, "to": 0.0, "end": 240 / 250, "shape": "step"},
    weight_source="1 beside 0.9 KD and 1 cross-entropy, both 0 in the last 10 of 250 epochs: the authors' code",
    kd={"from": 0.9, "to": 0.0, "end": 240 / 250, "shape": "step"},
    use_when="to repeat the paper; crd is simpler and cheaper",
    notes=(
        "The authors call it critical that distillation ends before the training does. Their code is, by its own "
        "words, incomplete and not checked."
    ),
)
