"""Nets of a user, for the tests of compression."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Skips(nn.Module):
    """A sum, a concatenation, a parameter of its own, a transposed convolution, and a Linear that reads a flattened map."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.norm = nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16)
        self.b, self.c = nn.Conv2d(16, 16, 3, padding=1), nn.Conv2d(32, 32, 3, padding=1)
        self.scale, self.act = nn.Parameter(torch.rand(1, 32, 1, 1) + 0.5), nn.PReLU(32)
        self.up = nn.ConvTranspose2d(32, 16, 2, stride=2)
        self.hidden, self.head = nn.Linear(16 * 16, 24), nn.Linear(24, 10)

    def forward(self, x: Tensor) -> Tensor:
        a = torch.relu(self.norm(self.a(x)))
        c = self.act(self.c(torch.cat([a, self.b(a) + a], 1)) * self.scale)
        y = self.up(nn.functional.max_pool2d(c, 8))
        return self.head(torch.relu(self.hidden(y.flatten(1))))


class FixedShape(nn.Module):
    """Its forward holds a number of channels: ``last`` cannot have fewer."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 16, 3, padding=1)
        self.head = nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        y = self.last(torch.relu(self.first(x)))
        return self.head(y.view(-1, 16, x.shape[2] * x.shape[3]).mean(-1))


class Shuffled(nn.Module):
    """The graph says that ``first`` can be cut; a shuffle of its channels makes that wrong without any error."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 16, 1), nn.Conv2d(16, 16, 1)
        self.head = nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.first(x)).flip(1)
        return self.head(torch.relu(self.second(y)).mean((2, 3)))


class Normalised(nn.Module):
    """Its only hidden channels go through a LayerNorm."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.head = nn.Linear(3 * 64, 32), nn.LayerNorm(32), nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(self.first(x.flatten(1))))
