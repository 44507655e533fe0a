from potstill.methods.base import Preset

PRESET = Preset(
    name="dkd",
    loss="potstill.losses.dkd:DKD",
    year=2022,
    compares="class probabilities, label and others apart",
    at="logits",
    weight={"from": 0.0, "to": 1.0, "end": 20 / 240},
    weight_source="1 on alpha 1 and beta 8 at T = 4, cross-entropy 1, grown over the first 20 of 240 epochs (mdistiller)",
    use_when="KD with a confident teacher and three classes or more: no extra parameters, among the best of the logit methods",
    notes=(
        "beta depends on the pair: 8 for most, 6 for WRN and VGG13 teachers, 2 for resnet56 and resnet110, 0.5 at T = 1 on "
        "ImageNet; a more confident teacher bears a larger one. With standardize=True the authors of logit standardization "
        "take T = 2 and weight 9."
    ),
)
