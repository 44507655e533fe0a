from potstill.methods.base import Preset

PRESET = Preset(
    name="sp",
    loss="potstill.losses.sp:SP",
    year=2019,
    compares="similarities between samples",
    at="last",
    weight=3000.0,
    weight_source="3000: RepDistiller's tables",
    use_when="nets of different families: neither channels nor resolution need agree, no extra parameters",
    notes="The weight belongs to batches of 64: the loss shrinks about as 1 / B.",
)
