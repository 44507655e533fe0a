"""A net of one's own, in a file outside the package: ``potstill train --data digits --model examples/dropout_net.py:make``."""

from torch import nn


def make(num_classes: int = 10, in_channels: int = 1, width: int = 8) -> nn.Module:
    """Two convolutions with BatchNorm and dropout."""
    return nn.Sequential(
        nn.Sequential(nn.Conv2d(in_channels, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(), nn.MaxPool2d(2)),
        nn.Sequential(nn.Conv2d(width, 2 * width, 3, padding=1), nn.BatchNorm2d(2 * width), nn.ReLU()),
        nn.Dropout(0.3),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(8 * width, num_classes),
    )
