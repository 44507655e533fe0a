"""Attention-based feature distillation."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from potstill.losses._maps import BatchNorm, Features, Shapes, as_list, map_shapes
from potstill.losses._relations import inner, unit
from potstill.losses.base import Loss
from potstill.ranges import Count
from potstill.types import Batch, Kept


class AFD(Loss):
    r"""Let every teacher map choose, sample by sample, which student maps are to match its attention.

    With the average over positions of each map, queries of the teacher :math:`q_i = W^q_i \bar F^t_i`, keys of the student
    :math:`k_j = \mathrm{ReLU}(W^k_j \bar F^s_j)` (all with BatchNorm), bilinear maps :math:`W_i` and learned places p,

    .. math:: \alpha_i = \mathrm{softmax}_j \frac{k_j^T W_i q_i + p^s_j \cdot p^t_i}{\sqrt d}, \qquad
              \ell_b = \sum_i \sum_j \alpha_{ij} \frac{1}{H_i W_i} \| a_i(F^s_j) - a_i(F^t_i) \|^2

    where :math:`a_i(F)` is :math:`\mathrm{mean}_c F_c^2` averaged to the resolution of the teacher's map i, as a unit vector.

    Args:
        s_shape, t_shape: filled in by probing: lists, which may differ in length.
        dim: d; 128.

    Shape: ``s``, ``t``: lists of maps (B, C, H, W) or tokens; any numbers, channels and resolutions. Result: (B,).

    Differs from the authors' code: a BatchNorm that meets a single sample uses its running statistics instead of failing. Their
    nets report more maps than one a stage; any list of spots may be given here.

    Paper: Ji, Heo, Park, AAAI 2021, arXiv 2102.02973
    """

    packs = "values"
    reduce_by = ()

    def __init__(self, s_shape: Shapes, t_shape: Shapes, dim: Count = 128) -> None:
        super().__init__()
        ss, ts = map_shapes(s_shape), map_shapes(t_shape)
        self.sizes = [t[1:] for t in ts]
        self.keys = nn.ModuleList(nn.Sequential(nn.Linear(s[0], dim), BatchNorm(dim), nn.ReLU()) for s in ss)
        self.queries = nn.ModuleList(nn.Sequential(nn.Linear(t[0], dim), BatchNorm(dim)) for t in ts)
        self.bilinear = nn.Sequential(nn.Linear(dim, dim * len(ts)), BatchNorm(dim * len(ts)))
        self.places_s = nn.Parameter(nn.init.xavier_normal_(torch.empty(len(ss), dim)))
        self.places_t = nn.Parameter(nn.init.xavier_normal_(torch.empty(len(ts), dim)))

    def forward(self, s: Features, t: Features, batch: Batch | None = None) -> Tensor:
        ss, kept = as_list(s), self.reduce(t)
        means, theirs = kept[0::2], kept[1::2]
        weight = self.weight(ss, means)
        power = [f.square().mean(1) for f in ss]
        at = {size: torch.stack([attention(p, size) for p in power], 1) for size in {*self.sizes}}
        losses = [
            (weight[:, i] * (at[size] - theirs[i][:, None]).square().mean(2)).sum(1)
            for i, size in enumerate(self.sizes)
        ]
        return torch.stack(losses).sum(0)

    def reduce(self, t: Features) -> Kept:
        """Of each of the teacher's maps the mean over positions, (B, C), and its attention, (B, H·W)."""
        if isinstance(t, Kept):
            return t
        pairs = [(g.mean((2, 3)), attention(g.square().mean(1), (g.shape[2], g.shape[3]))) for g in as_list(t)]
        return Kept(f for pair in pairs for f in pair)

    def weight(self, ss: list[Tensor], means: list[Tensor]) -> Tensor:
        """How much each teacher map, of which the means are given, asks of each student map, (B, teacher's, student's); sums to 1
        over the student's."""
        keys = torch.stack([key(f.mean((2, 3))) for key, f in zip(self.keys, ss, strict=True)], 1)
        queries = torch.stack([query(mean) for query, mean in zip(self.queries, means, strict=True)], 1)
        B, S, d = keys.shape
        keys = self.bilinear(keys.flatten(0, 1)).view(B, S, -1, d)
        match = (keys.float() * queries[:, None]).sum(3).mT + inner(self.places_t, self.places_s)
        return F.softmax(match / math.sqrt(d), dim=2)


def attention(power: Tensor, size: tuple[int, int]) -> Tensor:
    """A map of mean squares (B, h, w), averaged to a resolution, as unit vectors (B, H·W)."""
    return unit(F.adaptive_avg_pool2d(power, size).flatten(1))
