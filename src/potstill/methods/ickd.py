from potstill.methods.base import Preset

PRESET = Preset(
    name="ickd",
    loss="potstill.losses.ickd:ICKD",
    year=2021,
    compares="correlations between channels",
    at="last",
    weight=2.5,
    weight_source="2.5 beside cross-entropy 1 (the authors' README)",
    use_when="convolutional nets of different resolutions",
    notes="ICKD-C. One 1x1 convolution with BatchNorm is trained beside the student.",
)
