"""Probabilistic knowledge transfer."""

from __future__ import annotations

from torch import Tensor

from potstill.losses._relations import inner, unit, vectors
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
        p, q = (neighbours(x) for x in vectors(s, t))
        return (q * ((q + EPS) / (p + EPS)).log()).mean(1)


def neighbours(x: Tensor) -> Tensor:
    """The probability of each sample to choose each other, (B, B), of vectors (B, D)."""
    near = inner(unit(x)) + 1  # twice kappa
    return near / near.sum(1, keepdim=True)
