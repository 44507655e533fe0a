from potstill.methods.base import Preset

PRESET = Preset(
    name="cat_kd",
    loss="potstill.losses.cat_kd:CATKD",
    year=2023,
    compares="class activation maps",
    at="pooled",
    weight=15.0,
    weight_source="15 for ResNet-32x4 and ResNet-8x4; 0.7 to 600 over the pairs: the authors' configurations",
    use_when="nets that average their last map and classify it linearly; no extra parameters",
    notes=(
        "The authors' weights: 12 (wrn-40-2, wrn-16-2), 1.5 (wrn-40-1), 0.7 (resnet56, resnet20), 1.8 "
        "(resnet110, resnet32), 4.5 (vgg13, vgg8), 0.5 with resolution=4 (ImageNet, ResNet-34 and -18); with "
        "normalize=True 15 (vgg13, MobileNetV2), 40 (ResNet-50, MobileNetV2), and with resolution=4 too 80 "
        "(wrn-40-2, ShuffleNetV1), 600 (resnet32x4, ShuffleNets). The spot must be the map that the global "
        "average pooling reads."
    ),
)
