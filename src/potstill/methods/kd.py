from potstill.methods.base import Preset

PRESET = Preset(
    name="kd",
    loss="potstill.losses.kd:KD",
    year=2015,
    compares="class probabilities",
    at="logits",
    weight=0.9,
    weight_source="0.9 and cross-entropy 0.1 at T = 4: RepDistiller's tables; 1 and 1 beside another method (SAKD, SemCKD)",
    ce=0.1,
    use_when="always a good first try: no extra parameters, the cheapest step",
)
