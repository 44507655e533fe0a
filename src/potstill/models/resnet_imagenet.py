"""The ImageNet ResNets with a CIFAR stem: ResNet18 ... ResNet152."""

from __future__ import annotations

from functools import partial

from torch import Tensor, nn

from potstill.models.base import ZooNet, init_he
from potstill.models.resnet import conv3x3


def shortcut(inputs: int, outputs: int, stride: int) -> nn.Sequential:
    """A 1x1 convolution where the shape changes; else nothing."""
    if stride == 1 and inputs == outputs:
        return nn.Sequential()
    return nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))


class Basic(nn.Module):
    """Two 3x3 convolutions; the pre-activation of the sum is ``relu2@in``."""

    expansion = 1

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1, self.relu1 = conv3x3(inputs, width, stride), nn.BatchNorm2d(width), nn.ReLU()
        self.conv2, self.bn2, self.relu2 = conv3x3(width, width), nn.BatchNorm2d(width), nn.ReLU()
        self.shortcut = shortcut(inputs, width, stride)

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(self.relu1(self.bn1(self.conv1(x)))))
        return self.relu2(y + self.shortcut(x))


class Bottleneck(nn.Module):
    """1x1, 3x3 (with the stride), 1x1 to four times the width; the pre-activation of the sum is ``relu3@in``."""

    expansion = 4

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        outputs = width * self.expansion
        self.conv1, self.bn1 = nn.Conv2d(inputs, width, 1, bias=False), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = conv3x3(width, width, stride), nn.BatchNorm2d(width)
        self.conv3, self.bn3 = nn.Conv2d(width, outputs, 1, bias=False), nn.BatchNorm2d(outputs)
        self.relu1, self.relu2, self.relu3 = nn.ReLU(), nn.ReLU(), nn.ReLU()
        self.shortcut = shortcut(inputs, outputs, stride)

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu1(self.bn1(self.conv1(x)))
        y = self.bn3(self.conv3(self.relu2(self.bn2(self.conv2(y)))))
        return self.relu3(y + self.shortcut(x))


class ResNet(ZooNet):
    """ResNet with four stages of widths 64, 128, 256, 512, whose stem keeps the resolution (3x3, stride 1, no pooling).

    Args:
        block: the kind of block.
        depths: number of blocks of each stage.
        num_classes: length of the logits; 100, as in the tables of the field.
        in_channels: channels of a picture.

    Paper: He, Zhang, Ren, Sun, 2016, arXiv 1512.03385
    """

    stem, stages, head = "relu", ("layer1", "layer2", "layer3", "layer4"), "linear"
    layer1: nn.Sequential
    layer2: nn.Sequential
    layer3: nn.Sequential
    layer4: nn.Sequential

    def __init__(
        self,
        block: type[Basic] | type[Bottleneck],
        depths: tuple[int, int, int, int],
        num_classes: int = 100,
        in_channels: int = 3,
    ) -> None:
        super().__init__()
        self.conv1, self.bn1, self.relu = conv3x3(in_channels, 64), nn.BatchNorm2d(64), nn.ReLU()
        inputs = 64
        for i, (depth, width) in enumerate(zip(depths, (64, 128, 256, 512), strict=True), 1):
            blocks = []
            for j in range(depth):
                blocks.append(block(inputs, width, 2 if i > 1 and j == 0 else 1))
                inputs = width * block.expansion
            self.add_module(f"layer{i}", nn.Sequential(*blocks))
        self.avgpool, self.linear = nn.AdaptiveAvgPool2d(1), nn.Linear(inputs, num_classes)
        init_he(self)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.linear(self.avgpool(x).flatten(1))


ResNet18, ResNet34 = (partial(ResNet, Basic, depths) for depths in ((2, 2, 2, 2), (3, 4, 6, 3)))
ResNet50, ResNet101, ResNet152 = (
    partial(ResNet, Bottleneck, depths) for depths in ((3, 4, 6, 3), (3, 4, 23, 3), (3, 8, 36, 3))
)
