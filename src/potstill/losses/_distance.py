"""The plain distance that comes before prime-aware adaptive distillation."""

from __future__ import annotations

from torch import Tensor, nn

from potstill.losses._maps import Features, Shapes, map_shapes, pooled
from potstill.losses._squares import square_mean
from potstill.losses.base import Loss
from potstill.types import Batch


class Distance(Loss):
    r"""The squared distance of two vectors, without an uncertainty: the stage before :class:`PAD`, which takes r over.

    .. math:: \ell_b = \frac1d \| r(f^s_b) - f^t_b \|^2

    Args:
        s_shape, t_shape: filled in by probing; of a list, the deepest spot is read. r is the identity where the widths are
            equal, else linear.

    Shape: ``s``, ``t``: penultimate vectors (B, d), maps or tokens (their averages are compared). Result: (B,).

    Paper: Zhang et al., ECCV 2020, arXiv 2008.01458
    """

    def __init__(self, s_shape: Shapes, t_shape: Shapes) -> None:
        super().__init__()
        c, C = map_shapes(s_shape)[-1][0], map_shapes(t_shape)[-1][0]
        self.regressor = nn.Identity() if c == C else nn.Linear(c, C)

    def forward(self, s: Features, t: Features, batch: Batch | None = None) -> Tensor:
        f, g = (pooled(x if isinstance(x, Tensor) else x[-1]) for x in (s, t))
        return square_mean(self.regressor(f), g)
