"""ShuffleNet V2 for small pictures."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from potstill.models.base import ZooNet
from potstill.models.shufflenetv1 import shuffle


def pointwise(inputs: int, outputs: int) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 1, bias=False)


def depthwise(channels: int, stride: int) -> nn.Conv2d:
    return nn.Conv2d(channels, channels, 3, stride, padding=1, groups=channels, bias=False)


class Half(nn.Module):
    """One half of the channels is worked on, the other passes; then both are shuffled.

    The output is shuffled and the pre-activation ``relu2@in`` is not: their channels differ in order and number.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        half = channels // 2
        self.conv1, self.conv2, self.conv3 = pointwise(half, half), depthwise(half, 1), pointwise(half, half)
        self.bn1, self.bn2, self.bn3 = (nn.BatchNorm2d(half) for _ in range(3))
        self.relu1, self.relu2 = nn.ReLU(), nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        kept, y = x.chunk(2, dim=1)
        y = self.bn2(self.conv2(self.relu1(self.bn1(self.conv1(y)))))
        return shuffle(torch.cat([kept, self.relu2(self.bn3(self.conv3(y)))], 1), 2)


class Down(nn.Module):
    """Two branches of stride 2, concatenated and shuffled."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        half = outputs // 2
        self.conv1, self.conv2 = depthwise(inputs, 2), pointwise(inputs, half)
        self.conv3, self.conv4, self.conv5 = pointwise(inputs, half), depthwise(half, 2), pointwise(half, half)
        self.bn1 = nn.BatchNorm2d(inputs)
        self.bn2, self.bn3, self.bn4, self.bn5 = (nn.BatchNorm2d(half) for _ in range(4))
        self.relu1, self.relu2, self.relu3 = nn.ReLU(), nn.ReLU(), nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        left = self.relu1(self.bn2(self.conv2(self.bn1(self.conv1(x)))))
        right = self.bn4(self.conv4(self.relu2(self.bn3(self.conv3(x)))))
        right = self.relu3(self.bn5(self.conv5(right)))
        return shuffle(torch.cat([left, right], 1), 2)


class ShuffleV2(ZooNet):
    """ShuffleNet V2 of width 1 (116, 232, 464 channels, then 1024); its stem keeps the resolution.

    The penultimate vector comes from a 1x1 convolution to 1024 channels after the last stage.

    Args:
        num_classes: length of the logits; 100, as in the tables of the field.
        in_channels: channels of a picture.

    Paper: Ma et al., 2018, arXiv 1807.11164
    """

    stem, stages, head = "relu1", ("layer1", "layer2", "layer3"), "linear"
    layer1: nn.Sequential
    layer2: nn.Sequential
    layer3: nn.Sequential

    def __init__(self, num_classes: int = 100, in_channels: int = 3) -> None:
        super().__init__()
        inputs, last = 24, 1024
        self.conv1, self.bn1, self.relu1 = pointwise(in_channels, inputs), nn.BatchNorm2d(inputs), nn.ReLU()
        for i, (outputs, depth) in enumerate(((116, 3), (232, 7), (464, 3)), 1):
            self.add_module(f"layer{i}", nn.Sequential(Down(inputs, outputs), *(Half(outputs) for _ in range(depth))))
            inputs = outputs
        self.conv2, self.bn2, self.relu2 = pointwise(inputs, last), nn.BatchNorm2d(last), nn.ReLU()
        self.avgpool, self.linear = nn.AdaptiveAvgPool2d(1), nn.Linear(last, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu1(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        x = self.relu2(self.bn2(self.conv2(x)))
        return self.linear(self.avgpool(x).flatten(1))
