from potstill.methods.base import Preset

PRESET = Preset(
    name="reviewkd",
    loss="potstill.losses.reviewkd:ReviewKD",
    year=2021,
    compares="maps, each fused with what deeper ones know",
    at="stages@t_pre+penultimate",
    weight={"from": 0.0, "to": 5.0, "end": 20 / 240},
    weight_source=(
        "grown over the first 20 of 240 epochs to 5 for ResNet-8x4, WRN and ShuffleNetV1, 8 for ShuffleNetV2, 1 for "
        "ResNet-32, 0.6 for ResNet-20 (the authors' scripts)"
    ),
    use_when="the strongest feature method for convolutional nets of like stages",
    notes=("Published with the teacher's stages before their activation, nesterov and batches of 128."),
)
