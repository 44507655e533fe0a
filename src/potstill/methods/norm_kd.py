from potstill.methods.base import Preset

PRESET = Preset(
    name="norm_kd",
    loss="potstill.losses.norm_kd:NormKD",
    year=2023,
    compares="class probabilities, at a temperature of each sample",
    at="logits",
    weight=0.9,
    weight_source="0.9 and cross-entropy 0.1 on CIFAR-100 (the authors' configurations)",
    ce=0.1,
    notes="On ImageNet the authors take 0.5 and 0.5, and a temperature of 1 standard deviation.",
    use_when="nets whose logits differ much in size between samples",
)
