"""Nets of a user's own, with what makes a net hard to cut."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Inside(nn.Module):
    """Two blocks whose skips stay inside them; one ReLU, which works in place, serves both; code between the layers."""

    def __init__(self, inplace: bool = True) -> None:
        super().__init__()
        self.one, self.two, self.short = nn.Conv2d(3, 6, 3, 2, 1), nn.Conv2d(6, 8, 3, 2, 1), nn.Conv2d(6, 8, 1, 2)
        self.relu, self.scale, self.head = nn.ReLU(inplace), nn.Parameter(torch.rand(1, 8, 1, 1)), nn.Linear(8, 5)
        self.first, self.second = nn.Identity(), nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.one(x * 2 - 1)) + 0.1
        x = self.first(x)
        x = self.relu(self.two(x) + self.short(x)) * self.scale
        return self.head(self.second(x).mean((2, 3)))


class Across(Inside):
    """The first block's output also goes round the second."""

    def forward(self, x: Tensor) -> Tensor:
        early = self.first(self.relu(self.one(x)))
        late = self.second(self.relu(self.two(early)))
        return self.head((late + self.short(early)).mean((2, 3)))


class Peek(Inside):
    """Code before the cut that looks at values."""

    def forward(self, x: Tensor) -> Tensor:
        if x.mean() > 0:
            x = x + 1
        return super().forward(x)


class Twice(nn.Module):
    """One block that runs twice, by tuples and keywords; a class token is put in front by code."""

    def __init__(self) -> None:
        super().__init__()
        self.patch, self.token = nn.Conv2d(3, 8, 4, 4), nn.Parameter(torch.rand(1, 1, 8))
        self.block, self.norm, self.head = Pair(8), nn.LayerNorm(8), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        x = self.patch(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(len(x), -1, -1), x], 1)
        x, n = self.block(x, depth=1)
        x, n = self.block(x, depth=n)
        return {"logits": self.head(self.norm(x)[:, 0])}


class Pair(nn.Module):
    """Gives a tensor and a number."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.mix = nn.TransformerEncoderLayer(dim, 2, 2 * dim, 0.0, batch_first=True)

    def forward(self, x: Tensor, depth: int) -> tuple[Tensor, int]:
        return self.mix(x) * depth, depth + 1
