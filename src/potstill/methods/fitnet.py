from potstill.methods.base import Preset

PRESET = Preset(
    name="fitnet",
    loss="potstill.losses.fitnet:FitNet",
    year=2015,
    compares="a hidden feature map",
    at="stage:2",
    weight=100.0,
    weight_source="100, trained jointly with the labels: RepDistiller's script (the paper trains the hint first)",
    use_when="student and teacher have like stages; combine with kd",
    notes="Joint, as all later tables have it. No final ReLU in the regressor where the teacher's map is signed.",
)
