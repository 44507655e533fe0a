"""Neuron selectivity transfer."""

from __future__ import annotations

import torch
from torch import Tensor

from potstill.losses._maps import Features, as_maps, at_one_size, places
from potstill.losses._relations import gram, inverse_root, unit
from potstill.losses.base import Loss
from potstill.types import Batch


class NST(Loss):
    r"""Match the distribution of the channels' spatial patterns: squared MMD with the kernel :math:`k(x, y) = (x^T y)^2`.

    With the rows of :math:`S \in R^{c \times HW}` and :math:`T \in R^{C \times HW}` brought to unit length,

    .. math:: \ell_b = \sum_i \frac{\|TT^T\|_F^2}{C^2} - 2 \frac{\|ST^T\|_F^2}{cC} + \frac{\|SS^T\|_F^2}{c^2}
              = \sum_i \Big\| \frac{S^TS}{c} - \frac{T^TT}{C} \Big\|_F^2

    The form with the smaller Gram matrices is used: the right one where HW is at most the larger number of channels.
    Where the resolutions differ, the larger map is averaged to the smaller first.

    Shape: ``s``, ``t``: maps (B, C, H, W) or tokens, or lists of as many; channels may differ. Result: (B,).

    Differs from the authors' code: they drop the teacher's term, which has no gradient, and use one map; RepDistiller, whose
    values these are, keeps it and sums over the stages, but forms B x c x C x HW products (2.8 GB where this needs 64 MB).

    Raises:
        ModelError: not as many maps on both sides.

    Paper: Huang, Wang, 2017, arXiv 1707.01219
    """

    def forward(self, s: Features, t: Features, batch: Batch | None = None) -> Tensor:
        ss, ts = as_maps(s, t, "NST")
        return torch.stack([mmd(*at_one_size(f, g)) for f, g in zip(ss, ts, strict=True)]).sum(0)


def mmd(f: Tensor, g: Tensor) -> Tensor:
    """The squared MMD of the channels of two maps, (B, c, H, W) and (B, C, H, W), for each sample, (B,)."""
    with torch.autocast(f.device.type, enabled=False):
        s, t = places(f), places(g)
        c, C = s.shape[2], t.shape[2]
        if s.shape[1] <= max(c, C):
            s, t = unit(s, 1), unit(t, 1)
            return (gram(s) / c - gram(t) / C).square().sum((1, 2))
        # the channels' lengths stand on the diagonal: the products are brought to unit length, not the maps. (Not by
        # k.diagonal(): compiled by inductor, its gradient was wrong.)
        ss, st, tt = gram(s.mT), s.mT @ t, gram(t.mT)
        a, b = (inverse_root((k * torch.eye(k.shape[1], device=k.device)).sum(2)) for k in (ss, tt))
        return squares(tt, b, b) / C**2 - 2 * squares(st, a, b) / (c * C) + squares(ss, a, a) / c**2


def squares(k: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """The sum of the squares of k (B, M, N) with its rows times a (B, M) and its columns times b (B, N), (B,)."""
    return (k * a[:, :, None] * b[:, None]).square().sum((1, 2))
