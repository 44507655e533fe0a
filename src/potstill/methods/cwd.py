from potstill.methods.base import Preset

PRESET = Preset(
    name="cwd",
    loss="potstill.losses.cwd:CWD",
    year=2021,
    compares="where each channel has its mass",
    at="last",
    weight=3.0,
    weight_source=(
        "3 at T = 4 on the logit map: the authors' segmentation script; 5 at T = 1 on each level of an FPN: "
        "their detection configurations"
    ),
    use_when="dense maps (segmentation, detection)",
    notes="Made for dense prediction; for classification no weight was published.",
)
