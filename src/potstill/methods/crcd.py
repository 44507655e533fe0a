from potstill.methods.base import Preset

PRESET = Preset(
    name="crcd",
    loss="potstill.losses.crcd:CRCD",
    year=2021,
    compares="relations of embeddings and of gradients, contrasted with those of other samples",
    at="penultimate",
    weight=1.0,
    weight_source="1 beside 0.9 KD and 1 cross-entropy: the authors' code",
    kd=0.9,
    use_when="to repeat the paper; crd is simpler and cheaper",
    notes=(
        "Published with 250 epochs and all distillation weights 0 in the last 10, which the authors call "
        "critical: weight={from: 1, to: 0, end: 0.96, shape: step}. Their code is, by its own "
        "words, incomplete and not checked."
    ),
)
