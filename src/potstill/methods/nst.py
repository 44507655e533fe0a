from potstill.methods.base import Preset

PRESET = Preset(
    name="nst",
    loss="potstill.losses.nst:NST",
    year=2017,
    compares="distributions of the channels' spatial patterns",
    at="stages",
    weight=50.0,
    weight_source="50 on the sum over the stages: RepDistiller's tables",
    use_when="maps of other channels, and no extra parameters wanted",
    notes="The authors use one map and leave out the teacher's term, which has no gradient.",
)
