from potstill.methods.base import Preset

PRESET = Preset(
    name="at",
    loss="potstill.losses.at:AT",
    year=2017,
    compares="spatial attention maps",
    at="stages",
    weight=1000.0,
    weight_source="1000 on the sum over the stages: RepDistiller's script and the authors' (beta 1e3)",
    use_when="convolutional nets with like resolutions; combine with kd; no extra parameters",
    notes="The mean over H·W makes the weight depend on the resolution: 1000 is tied to maps of 32, 16 and 8 pixels.",
)
