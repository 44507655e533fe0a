"""Tiny nets for tiny pictures, such as the embedded 8x8 digits."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from torch import Tensor, nn

from potstill.errors import ModelError
from potstill.models.base import ZooNet


class CNN(ZooNet):
    """3x3 convolution, BatchNorm and ReLU for each width, max-pooling between them, global average, Linear.

    Args:
        widths: channels of each stage; (8, 16) has 1,466 parameters on digits, (16, 32, 32) has 14,538.
        num_classes: length of the logits.
        in_channels: channels of a picture.

    Raises:
        ModelError: the widths are not one or more positive integers.
    """

    stem, head = "features.stage1.0", "fc"

    def __init__(self, widths: Sequence[int] = (8, 16), num_classes: int = 10, in_channels: int = 3) -> None:
        super().__init__()
        if not isinstance(widths, list | tuple) or not widths or not all(type(w) is int and w > 0 for w in widths):
            raise ModelError(
                f"widths must be one or more positive integers, got {widths!r}", hint="zoo:cnn(widths=(8, 16))"
            )
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        for i, width in enumerate(widths, 1):
            if i > 1:
                layers[f"pool{i - 1}"] = nn.MaxPool2d(2)
            conv = nn.Conv2d(in_channels, width, 3, padding=1)
            layers[f"stage{i}"] = nn.Sequential(conv, nn.BatchNorm2d(width), nn.ReLU())
            in_channels = width
        self.features, self.avgpool = nn.Sequential(layers), nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(in_channels, num_classes)
        self.stages = tuple(f"features.stage{i}" for i in range(1, len(widths) + 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.avgpool(self.features(x)).flatten(1))
