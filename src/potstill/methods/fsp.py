from potstill.methods.base import Preset

PRESET = Preset(
    name="fsp",
    loss="potstill.losses.fsp:FSP",
    year=2017,
    compares="products of the channels of consecutive maps",
    at="stem+stages",
    weight=1.0,
    weight_source=(
        "1: the sum over the pairs is all that the first stage minimises (RepDistiller; its weight 50 has no effect)"
    ),
    use_when="student and teacher are of one family and of equal widths",
    notes=(
        "Published in two stages: 30 epochs of this loss alone on the student's body (all but the "
        "classifier), then the labels alone. Only for equal channels."
    ),
)
