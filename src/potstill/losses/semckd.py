"""Semantic calibration."""

from __future__ import annotations

from itertools import product

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from potstill.losses._maps import BatchNorm, Features, Shapes, as_list, at_one_size, conv, map_shapes
from potstill.losses._relations import inner, unit
from potstill.losses._squares import square_mean
from potstill.losses.base import Loss
from potstill.ranges import Count, Positive
from potstill.types import Batch


class SemCKD(Loss):
    r"""Match every student map with every teacher map, weighted by how alike they are in what they tell apart.

    .. math:: \alpha_{bij} = \mathrm{softmax}_j \frac{Q_i(\bar F^s_{bi}) \cdot K_j(\bar F^t_{bj})}{\theta}, \qquad
              \ell_b = \frac1S \sum_{i=1}^{S} \sum_j \alpha_{bij} \frac{1}{C_j H W} \| P_{ij}(F^s_{bi}) - F^t_{bj} \|^2

    :math:`P_{ij}` is 1x1 -> 3x3 -> 1x1 convolutions through 2C channels with BatchNorm and ReLU; Q and K are two linear layers
    with ReLU whose outputs have unit length. Where the resolutions differ, the larger map is averaged to the smaller.

    Args:
        s_shape, t_shape: filled in by probing: lists, which may differ in length.
        dim: width of Q and K; 16, a quarter of the batch of 64 as in the authors' code.
        softness: theta; 1.

    Shape: ``s``, ``t``: lists of maps (B, C, H, W) or tokens; any numbers, channels and resolutions. Result: (B,).

    Differs from the authors' code: their Q and K read a row of the batch's B x B similarities, so their width is the batch size:
    the batch cannot change, the last one is skipped, and a weight belongs to a place in the batch, which means nothing. Here they
    read the map's average over positions: likeness to learned prototypes instead of to the samples that happen to be there. Each
    sample stands alone, any batch will do. The S·T projectors are large (36 C² each in the 3x3 layer): 0.85 billion
    parameters for four student stages and a ResNet-50 teacher.

    Paper: Chen et al., AAAI 2021, arXiv 2012.03236
    """

    def __init__(self, s_shape: Shapes, t_shape: Shapes, dim: Count = 16, softness: Positive = 1.0) -> None:
        super().__init__()
        ss, ts = map_shapes(s_shape), map_shapes(t_shape)
        self.softness = softness
        self.queries = nn.ModuleList(embed(s[0], dim) for s in ss)
        self.keys = nn.ModuleList(embed(t[0], dim) for t in ts)
        self.projectors = nn.ModuleList(projector(s[0], t[0]) for s, t in product(ss, ts))

    def forward(self, s: Features, t: Features, batch: Batch | None = None) -> Tensor:
        ss, ts = as_list(s), as_list(t)
        distances = []
        for (f, g), project in zip(product(ss, ts), self.projectors, strict=True):
            a, b = at_one_size(f, g)
            distances.append(square_mean(project(a), b))
        distance = torch.stack(distances, 1).unflatten(1, (len(ss), len(ts)))
        return (self.weight(ss, ts) * distance).sum((1, 2)) / len(ss)

    def weight(self, ss: list[Tensor], ts: list[Tensor]) -> Tensor:
        """How much each student map learns from each teacher map, (B, student's, teacher's); sums to 1 over the teacher's."""
        queries = torch.stack([q(f.mean((2, 3))) for q, f in zip(self.queries, ss, strict=True)], 1)
        keys = torch.stack([k(g.mean((2, 3))) for k, g in zip(self.keys, ts, strict=True)], 1)
        return F.softmax(inner(unit(queries.float()), unit(keys.float())) / self.softness, dim=2)


def embed(c: int, dim: int) -> nn.Sequential:
    """Two linear layers with ReLU between them."""
    return nn.Sequential(nn.Linear(c, 2 * dim), nn.ReLU(), nn.Linear(2 * dim, dim))


def projector(c: int, C: int) -> nn.Sequential:
    """1x1 -> 3x3 -> 1x1 through twice the teacher's channels."""
    k = 2 * C
    return nn.Sequential(*(conv(c, k), BatchNorm(k), nn.ReLU()), *(conv(k, k, 3), BatchNorm(k), nn.ReLU()), conv(k, C))
