"""Attention transfer."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from potstill.errors import ModelError
from potstill.losses._maps import Features, as_maps, at_one_size
from potstill.losses._squares import ChannelSquares
from potstill.losses.base import Loss
from potstill.ranges import Positive
from potstill.types import Batch


class AT(Loss):
    r"""Look where the teacher looks: compare spatial attention maps, stage by stage.

    .. math:: a(F) = \frac{\mathrm{vec}(\frac1C\sum_c |F_c|^p)}{\|\cdot\|_2}, \qquad
              \ell_b = \sum_i \frac{1}{H_i W_i} \| a(F^s_{b,i}) - a(F^t_{b,i}) \|^2

    Where the resolutions differ, the larger *feature* is averaged to the smaller first (as in the authors' code).

    Args:
        p: power of the activations; 2 in the paper.

    Shape: ``s``, ``t``: maps (B, C, H, W) or tokens, or lists of as many; channels may differ. Result: (B,).

    Raises:
        ModelError: not as many maps on both sides (a silent ``zip`` would drop stages), or no maps.

    Paper: Zagoruyko, Komodakis, ICLR 2017, arXiv 1612.03928
    """

    def __init__(self, p: Positive = 2.0) -> None:
        super().__init__()
        self.p = p

    def forward(self, s: Features, t: Features, batch: Batch | None = None) -> Tensor:
        for f in (*([s] if isinstance(s, Tensor) else s), *([t] if isinstance(t, Tensor) else t)):
            if f.ndim not in (3, 4):
                raise ModelError(
                    f"attention transfer compares maps (B, C, H, W) or tokens (B, N, D), got shape {tuple(f.shape)}",
                    hint="pkt or rkd, which compare vectors; potstill inspect --pair TEACHER STUDENT",
                )
        ss, ts = as_maps(s, t, "AT")
        terms = []
        for f, g in zip(ss, ts, strict=True):
            f, g = at_one_size(f, g)
            terms.append((self.attention(f) - self.attention(g)).square().mean(1))
        return torch.stack(terms).sum(0)

    def attention(self, f: Tensor) -> Tensor:
        """The attention map as a unit vector, (B, H·W); zero for a map that is zero."""
        power: Tensor = ChannelSquares.apply(f) if self.p == 2 else f.abs().pow(self.p).sum(1)
        return F.normalize(power.flatten(1), dim=1)  # which makes sum and mean the same
