"""Attention transfer."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor

from potstill.adapters import resized
from potstill.errors import ModelError
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

    Shape: ``s``, ``t``: maps (B, C, H, W), or lists of as many maps; channels may differ. Result: (B,).

    Raises:
        ModelError: not as many maps on both sides (a silent ``zip`` would drop stages), or no maps.

    Paper: Zagoruyko, Komodakis, ICLR 2017, arXiv 1612.03928
    """

    def __init__(self, p: Positive = 2.0) -> None:
        super().__init__()
        self.p = p

    def forward(self, s: Tensor | Sequence[Tensor], t: Tensor | Sequence[Tensor], batch: Batch | None = None) -> Tensor:
        ss, ts = ([s], [t]) if isinstance(s, Tensor) and isinstance(t, Tensor) else (list(s), list(t))
        if len(ss) != len(ts) or any(f.ndim != 4 for f in (*ss, *ts)):
            raise ModelError(
                "attention transfer needs as many maps (B, C, H, W) of the teacher as of the student, got "
                f"{[tuple(f.shape) for f in ss]} and {[tuple(f.shape) for f in ts]}",
                hint="potstill inspect --pair TEACHER STUDENT",
            )
        terms = []
        for f, g in zip(ss, ts, strict=True):
            size = (min(f.shape[2], g.shape[2]), min(f.shape[3], g.shape[3]))
            difference = self.attention(resized(f, size)) - self.attention(resized(g, size))
            terms.append(difference.square().mean(1))
        return sum(terms[1:], terms[0])

    def attention(self, f: Tensor) -> Tensor:
        """The attention map as a unit vector, (B, H·W); zero for a map that is zero."""
        f = f.float()
        power = f.square() if self.p == 2 else f.abs().pow(self.p)
        return F.normalize(power.mean(1).flatten(1), dim=1)
