from potstill.methods.base import Preset

PRESET = Preset(
    name="ttm",
    loss="potstill.losses.ttm:TTM",
    year=2024,
    compares="class probabilities, the teacher's alone softened",
    at="logits",
    weight=45.0,
    weight_source="45 with gamma 0.1 and cross-entropy 1, VGG13 to VGG8 on CIFAR-100 (the authors' command)",
    use_when="a student that becomes too sure under kd",
    notes="The weight is large because a temperature on one side alone has no factor T²; it depends on gamma and the pair.",
)
