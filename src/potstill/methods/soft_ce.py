from potstill.methods.base import Preset

PRESET = Preset(
    name="soft_ce",
    loss="potstill.losses.soft_ce:SoftCE",
    year=2015,
    compares="class probabilities",
    at="logits",
    weight=0.7,
    weight_source="alpha soft CE + (1 - alpha) CE with alpha 0.7 at T = 4 (founding document 001)",
    ce=0.3,
    use_when="to repeat work that used no T²: its gradient is T² times smaller than that of kd at the same weight",
)
