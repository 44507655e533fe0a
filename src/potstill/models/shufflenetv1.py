"""ShuffleNet V1 for small pictures."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from potstill.models.base import ZooNet


def shuffle(x: Tensor, groups: int) -> Tensor:
    """Deal the channels of (B, C, H, W) out, so that each group of the next convolution sees some of every group."""
    return x.unflatten(1, (groups, -1)).transpose(1, 2).flatten(1, 2)


class Bottleneck(nn.Module):
    """Grouped 1x1, shuffle, depthwise 3x3, grouped 1x1. With stride 2 the pooled input is appended, not added."""

    def __init__(self, inputs: int, outputs: int, stride: int, groups: int, first_groups: int) -> None:
        super().__init__()
        hidden = outputs // 4
        self.conv1 = nn.Conv2d(inputs, hidden, 1, groups=first_groups, bias=False)
        self.conv2 = nn.Conv2d(hidden, hidden, 3, stride, padding=1, groups=hidden, bias=False)
        self.conv3 = nn.Conv2d(hidden, outputs, 1, groups=groups, bias=False)
        self.bn1, self.bn2, self.bn3 = nn.BatchNorm2d(hidden), nn.BatchNorm2d(hidden), nn.BatchNorm2d(outputs)
        self.relu1, self.relu2, self.relu3 = nn.ReLU(), nn.ReLU(), nn.ReLU()
        self.shortcut = nn.AvgPool2d(3, stride=2, padding=1) if stride == 2 else None
        self.groups = first_groups

    def forward(self, x: Tensor) -> Tensor:
        y = shuffle(self.relu1(self.bn1(self.conv1(x))), self.groups)
        y = self.bn3(self.conv3(self.relu2(self.bn2(self.conv2(y)))))
        return self.relu3(x + y if self.shortcut is None else torch.cat([y, self.shortcut(x)], 1))


class ShuffleV1(ZooNet):
    """ShuffleNet V1 with three groups and stages of 240, 480, 960 channels; its stem keeps the resolution.

    Args:
        num_classes: length of the logits; 100, as in the tables of the field.
        in_channels: channels of a picture.

    Paper: Zhang et al., 2018, arXiv 1707.01083
    """

    stem, stages, head = "relu", ("layer1", "layer2", "layer3"), "linear"
    layer1: nn.Sequential
    layer2: nn.Sequential
    layer3: nn.Sequential

    def __init__(self, num_classes: int = 100, in_channels: int = 3) -> None:
        super().__init__()
        inputs, groups = 24, 3
        self.conv1 = nn.Conv2d(in_channels, inputs, 1, bias=False)
        self.bn1, self.relu = nn.BatchNorm2d(inputs), nn.ReLU()
        for i, (outputs, depth) in enumerate(((240, 4), (480, 8), (960, 4)), 1):
            # the very first 1x1 sees 24 channels only: not grouped
            first = Bottleneck(inputs, outputs - inputs, 2, groups, first_groups=1 if i == 1 else groups)
            more = (Bottleneck(outputs, outputs, 1, groups, groups) for _ in range(depth - 1))
            self.add_module(f"layer{i}", nn.Sequential(first, *more))
            inputs = outputs
        self.avgpool, self.linear = nn.AdaptiveAvgPool2d(1), nn.Linear(inputs, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.linear(self.avgpool(x).flatten(1))
