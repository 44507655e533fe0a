from potstill.methods.base import Preset

PRESET = Preset(
    name="ofd",
    loss="potstill.losses.ofd:OFD",
    year=2019,
    compares="pre-activations above a margin",
    at="stages@pre",
    weight=1.0,
    weight_source="1: the authors' 1/1000 is part of the loss",
    use_when="convolutional nets with BatchNorm before their ReLUs, of like stages",
    notes=(
        "A sum over the map: its size grows with the resolution. The authors keep the teacher in training "
        "mode, which lets its statistics drift; here it is in eval mode. 200 epochs, batches of 128, learning"
        " rate 0.1 in the paper."
    ),
)
