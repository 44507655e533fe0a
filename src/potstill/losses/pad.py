"""Prime-aware adaptive distillation."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from potstill.losses._maps import BatchNorm, Features, Shapes, map_shapes, pooled
from potstill.losses.base import Loss
from potstill.types import Batch

EPS = 1e-6


class PAD(Loss):
    r"""Weight what is to be matched by a learned uncertainty: what the student finds easy counts more.

    The student's feature, averaged over positions, predicts a log-variance :math:`v = \mathrm{BN}(W_v f^s + b_v)`, and

    .. math:: \ell_b = \frac1d \sum_i \frac{(r(f^s_b)_i - f^t_{b,i})^2}{e^{v_{b,i}} + 10^{-6}} + v_{b,i}

    r is the identity where the widths are equal, else linear. Round another loss with value :math:`D_b`, the variance is one
    number a sample: :math:`\ell_b = D_b / (e^{v_b} + 10^{-6}) + v_b`. Either may be negative.

    Args:
        s_shape, t_shape: filled in by probing; of a list, the deepest spot is read.
        s_regressor: r as the stage before (``_distance.Distance``) trained it; None: a fresh one.
        loss: the loss to weight; None: the squared distance of the vectors, with a variance for each number, as published.

    Shape: ``s``, ``t``: penultimate vectors (B, d), maps or tokens, or what ``loss`` reads. Result: (B,).

    Published in two phases: the plain distance first (a warm-up), then this loss from that checkpoint.

    Paper: Zhang et al., ECCV 2020, arXiv 2008.01458
    """

    def __init__(
        self, s_shape: Shapes, t_shape: Shapes, loss: Loss | None = None, s_regressor: nn.Module | None = None
    ) -> None:
        super().__init__()
        c, C = map_shapes(s_shape)[-1][0], map_shapes(t_shape)[-1][0]
        self.loss = loss
        fresh = nn.Identity() if loss is not None or c == C else nn.Linear(c, C)
        self.regressor = fresh if s_regressor is None else s_regressor
        width = C if loss is None else 1
        self.log_variance = nn.Sequential(nn.Linear(c, width), BatchNorm(width))

    def forward(self, s: Features, t: Features, batch: Batch | None = None) -> Tensor:
        f, g = (pooled(x if isinstance(x, Tensor) else x[-1]) for x in (s, t))
        distance = (self.regressor(f) - g).square() if self.loss is None else self.loss(s, t, batch)[:, None]
        with torch.autocast(f.device.type, enabled=False):
            v = self.log_variance(f)
            return (distance / (v.exp() + EPS) + v).mean(1)
