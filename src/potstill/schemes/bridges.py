"""Adaptation layers between the two nets of a routing network, from any kind of feature to any."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from potstill.adapters import ConvReg, resized
from potstill.losses._maps import BatchNorm, as_map, map_shape
from potstill.types import Shape

End = Literal["plain", "norm", "norm+relu"]


class Bridge(nn.Module):
    """Maps what one net says at a spot, (B, *source), to what the other would say there, (B, *target).

    Maps (C, H, W), tokens (N, D) and vectors (D,) in any combination: within a kind it is :class:`ConvReg`, one convolution by
    the ratio of the resolutions (1x1 where they are equal). Tokens count as a map on their grid; tokens beside the grid (class
    tokens) are given by a linear layer from the map's average. A vector becomes a map that is constant over positions, a map a
    vector by its average.

    Args:
        source, target: shapes without the batch.
        end: what follows the convolution of a map: ``plain``: nothing (the 1x1 convolution of the paper); ``norm``: BatchNorm;
            ``norm+relu``: as in the authors' code, which no signed target (WRN, MobileNetV2, transformers) can be reached by.
    """

    def __init__(self, source: Shape, target: Shape, end: End = "plain") -> None:
        super().__init__()
        self.source, self.target = tuple(source), tuple(target)
        s, t = map_shape(self.source), map_shape(self.target)
        self.size = t[1:]
        self.map: nn.Module
        if len(self.source) == 1 or len(self.target) == 1:
            act = nn.ReLU() if end == "norm+relu" else nn.Identity()
            self.map = nn.Sequential(nn.Linear(s[0], t[0]), act)
        else:
            self.map = ConvReg(s, t, "relu" if end == "norm+relu" else "none")
            act = self.map.after[-1]  # type: ignore[index]
            self.map.after = nn.Identity() if end == "plain" else nn.Sequential(BatchNorm(t[0]), act)
        extra = self.target[0] - t[1] * t[2] if len(self.target) == 2 else 0
        self.extra = nn.Linear(s[0], extra * t[0]) if extra else None

    def forward(self, f: Tensor) -> Tensor:
        """(B, *source) -> (B, *target)."""
        if len(self.source) == len(self.target) == 1:
            mapped: Tensor = self.map(f)
            return mapped
        grid = f if f.ndim == 4 else as_map(f).to(f.dtype)
        if isinstance(self.map, ConvReg):
            out = resized(self.map(grid), self.size)
        else:
            vector: Tensor = self.map(grid.mean((2, 3)))
            if len(self.target) == 1:
                return vector
            out = vector[:, :, None, None].expand(-1, -1, *self.size)
        if len(self.target) == 3:
            return out
        tokens = out.flatten(2).mT
        if self.extra is None:
            return tokens
        beside = self.extra(grid.mean((2, 3))).unflatten(1, (-1, out.shape[1]))
        return torch.cat([beside.to(tokens.dtype), tokens], 1)
