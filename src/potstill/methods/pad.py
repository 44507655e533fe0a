from potstill.methods.base import Preset

PRESET = Preset(
    name="pad",
    loss="potstill.losses.pad:PAD",
    year=2020,
    compares="the penultimate vector, weighted by a learned uncertainty",
    at="penultimate",
    weight=1.0,
    weight_source="1: the paper's loss beside cross-entropy",
    use_when="some samples are much harder than others, or mislabelled",
    notes=(
        "Published in two phases: first the plain squared distance (fitnet at the penultimate vector), then "
        "this loss from there (30 epochs at a tenth of the learning rate in torchdistill). It can weight any "
        "loss that gives one number a sample: PAD(s_shape, t_shape, loss)."
    ),
)
