from potstill.methods.base import Preset

PRESET = Preset(
    name="ab",
    loss="potstill.losses.ab:AB",
    year=2019,
    compares="signs of pre-activations",
    at="stages@pre",
    weight=1.0,
    weight_source=(
        "1: the factors 2^(i-n) and 3/1000 are part of the loss (authors, RepDistiller; its weight is without effect)"
    ),
    use_when="to initialise a student of another family; then train with kd",
    notes=(
        "Published in two stages: 30 epochs of this loss alone on the student's body and the connectors, at a"
        " constant learning rate, the rest of the student in eval mode; then the labels (RepDistiller) or KD "
        "(authors). A sum over the map: its size grows with the resolution. Of the teacher one bit a number "
        "is enough to keep."
    ),
)
