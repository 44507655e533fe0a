"""Probabilistic knowledge transfer."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from potstill.losses._relations import inner, inverse_root, vectors
from potstill.losses.base import Loss
from potstill.types import Batch

EPS = 1e-7


class PKT(Loss):
    r"""Match, for each sample, the probability of choosing any other as its neighbour.

    .. math:: \ell_i = \frac1B \sum_j t_{ij} \log \frac{t_{ij} + \epsilon}{s_{ij} + \epsilon}, \quad
              s_{ij} = \frac{\kappa_{ij}}{\sum_k \kappa_{ik}}, \quad \kappa_{ij} = \tfrac12 (\cos(v_i, v_j) + 1)

    with :math:`\epsilon` = 1e-7; the sample itself is among its neighbours, as in the authors' code.

    Shape: ``s``, ``t``: vectors (B, D) or features (B, ...), which are flattened; the D may differ. Result: (B,), the loss of
    each row.

    Raises:
        ModelError: the batches differ in size.

    The loss is a mean over B x B pairs of probabilities of about 1 / B: it shrinks about as 1 / B, and the published weight
    30000 belongs to batches of 64.
    Differs from the authors' code: a zero vector gives no NaN gradient (the slope of the root at 0).

    Paper: Passalis, Tefas, ECCV 2018, arXiv 1803.10837
    """

    def forward(self, s: Tensor, t: Tensor, batch: Batch | None = None) -> Tensor:
        x, y = vectors(s, t)
        rows: Tensor = Choices.apply(x, neighbours(y)[0])
        return rows


def neighbours(x: Tensor) -> tuple[Tensor, ...]:
    """The probability of each sample to choose each other, (B, B), of vectors (B, D); then the directions, the inverse lengths
    and the sums of 2 kappa that it was made of."""
    inverse = inverse_root(x.square().sum(1, keepdim=True))
    unit = x * inverse
    near = inner(unit) + 1
    total = near.sum(1, keepdim=True)
    return near / total, unit, inverse, total


class Choices(torch.autograd.Function):
    """The loss of student's vectors (B, D) against the teacher's probabilities (B, B), with its gradient in closed form.

    The numbers are few: autograd's bookkeeping of twenty small steps takes longer than they do.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, q: Tensor) -> Tensor:
        p, *parts = neighbours(x)
        ctx.save_for_backward(p, q, *parts)
        return (q * ((q + EPS) / (p + EPS)).log()).mean(1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor, None]:
        p, q, unit, inverse, total = ctx.saved_tensors
        by_p = q / (p + EPS)  # less, and over B, the slope by p
        by_near = ((by_p * p).sum(1, keepdim=True) - by_p) * (slope[:, None] / (len(q) * total))
        by_unit = (by_near + by_near.T) @ unit
        return (by_unit - unit * (unit * by_unit).sum(1, keepdim=True)) * inverse, None
