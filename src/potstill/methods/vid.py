from potstill.methods.base import Preset

PRESET = Preset(
    name="vid",
    loss="potstill.losses.vid:VID",
    year=2019,
    compares="maps, predicted with a learned variance",
    at="stages",
    weight=1.0,
    weight_source="1 on the sum over the stages: RepDistiller's tables",
    use_when="nets of any families and widths; combine with kd",
    notes=(
        "The adapters (three 1x1 convolutions a stage) have 12 million parameters for a ResNet-50 teacher. "
        "The loss may be negative."
    ),
)
