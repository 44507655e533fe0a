from potstill.methods.base import Preset

PRESET = Preset(
    name="nkd",
    loss="potstill.losses.nkd:NKD",
    year=2023,
    compares="class probabilities, label and others apart",
    at="logits",
    weight=1.0,
    weight_source="1 beside cross-entropy 1, with T = 3 and gamma 3.5 on CIFAR-100 (the authors' configuration)",
    settings={"temperature": 3.0, "gamma": 3.5},
    use_when="like dkd, with one weight less to tune",
    notes="On ImageNet the authors take T = 1 and gamma 1.5, the defaults of the class.",
)
