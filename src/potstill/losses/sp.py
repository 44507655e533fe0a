"""Similarity-preserving distillation."""

from __future__ import annotations

from torch import Tensor

from potstill.losses._relations import gram, unit, vectors
from potstill.losses.base import Loss
from potstill.types import Batch


class SP(Loss):
    r"""Samples that look alike to the teacher shall look alike to the student.

    .. math:: \ell_b = \frac1B \big\| g^s_b - g^t_b \big\|^2, \quad
              g_b = \frac{(A A^\top)_b}{\|(A A^\top)_b\|}

    A holds the flattened features of the batch, one row a sample; its mean over the batch is
    :math:`\|G^s - G^t\|_F^2 / B^2`. Channels and resolutions may differ.

    Shape: ``s``: (B, ...), ``t``: (B, ...). Result: (B,), the loss of each row. Of a single sample it is 0.

    Raises:
        ModelError: the batches differ in size.

    The published weight 3000 belongs to batches of 64: a row has B entries but length 1, so the loss shrinks as B grows.
    Computed in float32, because the Gram matrix of half-precision features overflows.

    Paper: Tung, Mori, ICCV 2019, arXiv 1907.09682
    """

    def forward(self, s: Tensor, t: Tensor, batch: Batch | None = None) -> Tensor:
        a, b = vectors(s, t)
        return (unit(gram(a)) - unit(gram(b))).square().mean(1)
