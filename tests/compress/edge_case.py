"""A small net that has learned the digits, exported once for all tests of files for devices."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from potstill.data import Splits, Stream, load
from potstill.models.net import Net
from potstill.models.preprocess import Preprocess


class Small(nn.Module):
    """A stem, a residual sum and a head: what int8 runtimes fuse, and 1,000 parameters."""

    stages = ("first", "second")

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(
            nn.Conv2d(1, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2)
        )
        self.second = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU())
        self.fc = nn.Linear(8 * 16, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        return self.fc(F.relu(x + self.second(x)).flatten(1))


@dataclass
class Case:
    net: Net
    splits: Splits
    folder: Path
    x: Tensor
    y: Tensor
    files: dict[str, Any] = field(default_factory=dict)

    @property
    def calibration(self) -> Tensor:
        return torch.from_numpy(self.splits.train.pictures(range(200))).float() / 255


def learned(folder: Path) -> Case:
    torch.manual_seed(0)
    splits = load("digits", cache_dir=folder)
    net = Net(Small(), "object:Small", preprocess=Preprocess.from_data(splits.mean, splits.std), classes=splits.classes)
    net.in_channels, net.size = 1, (8, 8)
    optimizer = torch.optim.Adam(net.module.parameters(), 0.01)
    stream = Stream(splits.train, 64)
    for e in range(4):
        for batch in stream.epoch(e):
            optimizer.zero_grad()
            F.cross_entropy(net.module(net.preprocess(batch.x)), batch.y).backward()
            optimizer.step()
    net.module.eval()
    x = torch.from_numpy(splits.test.pictures(range(len(splits.test)))).float() / 255
    return Case(net, splits, folder, x, torch.from_numpy(splits.test.labels))
