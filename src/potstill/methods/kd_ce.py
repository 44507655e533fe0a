from potstill.methods.base import Preset

PRESET = Preset(
    name="kd_ce",
    loss="potstill.losses.kd:KD",
    year=2015,
    compares="class probabilities",
    at="logits",
    weight=0.5,
    weight_source="alpha T² KL + (1 - alpha) CE with alpha 0.5 and T = 5 (founding document 002)",
    ce=0.5,
    settings={"temperature": 5.0},
    use_when="labels and teacher should count alike",
    notes="The same loss as kd: only the weights and the temperature differ.",
)
