"""Attention transfer."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from potstill.adapters import resized
from potstill.errors import ModelError
from potstill.losses._maps import Features, Shapes, as_list, as_many, map_shape, shape_pairs, smaller
from potstill.losses._squares import ChannelSquares
from potstill.losses.base import Loss
from potstill.ranges import Positive
from potstill.types import Batch, Kept


class AT(Loss):
    r"""Look where the teacher looks: compare spatial attention maps, stage by stage.

    .. math:: a(F) = \frac{\mathrm{vec}(\frac1C\sum_c |F_c|^p)}{\|\cdot\|_2}, \qquad
              \ell_b = \sum_i \frac{1}{H_i W_i} \| a(F^s_{b,i}) - a(F^t_{b,i}) \|^2

    Where the resolutions differ, the larger *feature* is averaged to the smaller first (as in the authors' code).

    Args:
        p: power of the activations; 2 in the paper.
        s_shape, t_shape: filled in by probing, for the resolutions that :meth:`reduce` must know; else not needed.

    Shape: ``s``, ``t``: maps (B, C, H, W) or tokens, or lists of as many; channels may differ. Result: (B,).

    Raises:
        ModelError: not as many maps on both sides (a silent ``zip`` would drop stages), or no maps.

    Paper: Zagoruyko, Komodakis, ICLR 2017, arXiv 1612.03928
    """

    reduce_by = ("p", "sizes")

    def __init__(self, p: Positive = 2.0, s_shape: Shapes | None = None, t_shape: Shapes | None = None) -> None:
        super().__init__()
        self.p = p
        if s_shape is not None and t_shape is not None:
            self.sizes = [smaller(*pair) for pair in shape_pairs(s_shape, t_shape, "AT")]
            self.packs = "values"

    def forward(self, s: Features, t: Features, batch: Batch | None = None) -> Tensor:
        ss = maps(s)
        if isinstance(t, Kept):
            sizes, theirs = self.sizes, t
        else:
            ts = maps(t)
            as_many(ss, ts, "AT")
            sizes = [smaller(map_shape(f.shape[1:]), map_shape(g.shape[1:])) for f, g in zip(ss, ts, strict=True)]
            theirs = self.attentions(ts, sizes)
        ours = self.attentions(ss, sizes)
        return torch.stack([(a - b).square().mean(1) for a, b in zip(ours, theirs, strict=True)]).sum(0)

    def reduce(self, t: Features) -> Kept:
        """The teacher's attention maps at the resolutions at which they are compared, (B, H·W) each."""
        return t if isinstance(t, Kept) else self.attentions(maps(t), self.sizes)

    def attentions(self, fs: list[Tensor], sizes: list[tuple[int, int]]) -> Kept:
        """The attention map of each, averaged to its resolution."""
        return Kept(self.attention(resized(f, size)) for f, size in zip(fs, sizes, strict=True))

    def attention(self, f: Tensor) -> Tensor:
        """The attention map as a unit vector, (B, H·W); zero for a map that is zero."""
        power: Tensor = ChannelSquares.apply(f) if self.p == 2 else f.abs().pow(self.p).sum(1)
        return F.normalize(power.flatten(1), dim=1)  # which makes sum and mean the same


def maps(x: Features) -> list[Tensor]:
    """One feature or several as maps; vectors are refused."""
    for f in [x] if isinstance(x, Tensor) else x:
        if f.ndim not in (3, 4):
            raise ModelError(
                f"attention transfer compares maps (B, C, H, W) or tokens (B, N, D), got shape {tuple(f.shape)}",
                hint="pkt or rkd, which compare vectors; potstill inspect --pair TEACHER STUDENT",
            )
    return as_list(x)
