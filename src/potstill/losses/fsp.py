"""The flow of solution procedure."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from math import prod
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from potstill.adapters import resized
from potstill.errors import ModelError
from potstill.losses._maps import Features, as_list, as_many, places, shape_pairs
from potstill.losses.base import Loss
from potstill.types import Batch, Kept, Shape


class FSP(Loss):
    r"""Match how features change between two places: the products of channels of consecutive maps.

    .. math:: G_i = \frac{1}{H W} F_i F_{i+1}^T \in R^{c_i \times c_{i+1}}, \qquad
              \ell_b = \sum_i \frac{1}{c_i c_{i+1}} \| G^s_{b,i} - G^t_{b,i} \|_F^2

    Within a pair the larger map is pooled to the smaller one. Student and teacher may differ in resolution, not in channels.

    Args:
        s_shape, t_shape: filled in by probing: lists, of two or more spots.
        pooling: ``average`` as in RepDistiller, whose values these are; ``max`` as in the paper.

    Shape: ``s``, ``t``: lists of as many maps (B, C, H, W) or tokens. Result: (B,).

    Raises:
        ModelError: the channels differ, or there are not two maps or more.

    Paper: Yim et al., CVPR 2017 (no arXiv version). It trains this loss first and the labels afterwards (a stage of 30
    epochs in RepDistiller, stem included).
    """

    reduce_by = ("pooling",)

    def __init__(
        self, s_shape: Sequence[Shape], t_shape: Sequence[Shape], pooling: Literal["average", "max"] = "average"
    ) -> None:
        super().__init__()
        pairs = shape_pairs(s_shape, t_shape, "FSP")
        s_channels, t_channels = [s[0] for s, _ in pairs], [t[0] for _, t in pairs]
        if len(pairs) < 2:
            raise ModelError("FSP compares consecutive maps: it needs two spots or more", hint="at=stages")
        if s_channels != t_channels:
            raise ModelError(
                f"FSP needs as many channels in the student's maps as in the teacher's, got {s_channels} and {t_channels}",
                hint="use nst or at, which compare maps of any channels, or vid, which learns an adapter",
            )
        self.pooling = pooling
        if sum(c * d for c, d in pairwise(t_channels)) < sum(prod(t) for _, t in pairs):
            self.packs = "values"

    def forward(self, s: Features, t: Features, batch: Batch | None = None) -> Tensor:
        theirs, ours = self.reduce(t), self.flow(as_list(s))
        as_many(range(len(ours) + 1), range(len(theirs) + 1), "FSP")  # n maps have n - 1 matrices
        return torch.stack([(a - b).square().mean((1, 2)) for a, b in zip(ours, theirs, strict=True)]).sum(0)

    def reduce(self, t: Features) -> Kept:
        """The teacher's matrices, (B, c_i, c_{i+1}) each."""
        return t if isinstance(t, Kept) else Kept(self.flow(as_list(t)))

    def flow(self, maps: list[Tensor]) -> list[Tensor]:
        """The FSP matrices of consecutive maps, (B, c_i, c_{i+1})."""
        pool = resized if self.pooling == "average" else F.adaptive_max_pool2d
        matrices = []
        for f, g in pairwise(maps):
            size = (min(f.shape[2], g.shape[2]), min(f.shape[3], g.shape[3]))
            with torch.autocast(f.device.type, enabled=False):
                a, b = (places(h if h.shape[2:] == size else pool(h, size)) for h in (f, g))
                matrices.append(a.mT @ b / a.shape[1])
        return matrices
