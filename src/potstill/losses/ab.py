"""Activation boundaries."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from potstill.adapters import ConvReg
from potstill.losses._maps import Features, Shapes, as_maps, shape_pairs
from potstill.losses._squares import HingeSquares
from potstill.losses.base import Loss
from potstill.ranges import Positive
from potstill.types import Batch


class AB(Loss):
    r"""Make the student's neurons fire where the teacher's do: a hinge on the sign of the pre-activation.

    With :math:`\sigma = +1` where the teacher's pre-activation is positive and -1 elsewhere, connectors r and n stages,

    .. math:: \ell_b = \frac{3}{1000} \sum_{i=1}^{n} 2^{i-n} \sum_{c,h,w} \max(0, m - \sigma\, r_i(F^s_{b,i}))^2

    The sum over the map makes the size of the loss grow with the resolution. Of the teacher only the signs are read.

    Args:
        s_shape, t_shape: filled in by probing; lists where the spot is a list. The connector is the identity where the
            shapes are equal, else the regressor of FitNets without activation.
        margin: m; 1 in the authors' code.

    Shape: ``s``, ``t``: pre-activation maps (B, C, H, W), tokens or vectors, or lists of as many. Result: (B,).

    Raises:
        ModelError: not as many maps on both sides.

    Paper: Heo et al., AAAI 2019, arXiv 1811.03233. There, and in RepDistiller, a first stage of 30 epochs trains the student's
    body and the connectors by this loss alone; then the student learns from labels (RepDistiller) or by KD (authors).
    """

    packs = "signs"
    reduce_by = ()

    def __init__(self, s_shape: Shapes, t_shape: Shapes, margin: Positive = 1.0) -> None:
        super().__init__()
        self.margin = margin
        self.connectors = nn.ModuleList(
            nn.Identity() if s == t else ConvReg(s, t) for s, t in shape_pairs(s_shape, t_shape, "AB")
        )

    def forward(self, s: Features, t: Features, batch: Batch | None = None) -> Tensor:
        return torch.stack(self.terms(s, t, batch)).sum(0)

    def terms(self, s: Features, t: Features, batch: Batch | None = None) -> list[Tensor]:
        """What each stage adds, (B,) each."""
        ss, ts = as_maps(s, t, "AB")
        n = len(ss)
        return [
            0.003 * 2.0 ** (i + 1 - n) * boundary(connector(f), g, self.margin)
            for i, (f, g, connector) in enumerate(zip(ss, ts, self.connectors, strict=True))
        ]


def boundary(s: Tensor, t: Tensor, margin: float) -> Tensor:
    """The squared hinge on the teacher's signs, summed over each sample, (B,)."""
    hinge: Tensor = HingeSquares.apply(s, t, margin)
    return hinge
