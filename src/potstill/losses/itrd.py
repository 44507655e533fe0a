"""Information-theoretic representation distillation."""

from __future__ import annotations

import math

from torch import Tensor, nn

from potstill.losses._relations import deviations, inner, unit, vectors
from potstill.losses.base import Loss
from potstill.ranges import NonNegative, Positive
from potstill.types import Batch, Shape


class ITRD(Loss):
    r"""Raise the correlation of each feature with the teacher's, and the information that the two batches share.

    .. math:: \ell_b = \lambda_c \log_2 \sum_d |c_d - 1|^{2\alpha}
              + \lambda_m B \sum_{b'} \Big[ \Big(\frac{G^s_{bb'}}{\mathrm{tr}\, G^s}\Big)^2
              - \Big(\frac{G^s_{bb'} G^t_{bb'}}{\mathrm{tr}(G^s \circ G^t)}\Big)^2 \Big]

    :math:`c_d` is the correlation over the batch of dimension d of the embedded student with dimension d of the teacher
    (of batch-normalised features, times (B-1)/B as in the authors' code), G the Gram matrix of the vectors brought to
    length 1. The student's vector is embedded by a linear layer: always in the first part, in the second where the
    dimensions differ.

    Args:
        s_shape, t_shape: shapes of the two features without the batch (filled in by probing).
        correlation_weight: :math:`\lambda_c`; 2 in the authors' command.
        mutual_weight: :math:`\lambda_m`; 1 in the authors' command (0.05 is their code's default).
        alpha: the order of the entropy; 1.01 in the authors' command.

    Shape: ``s``: (B, *s_shape), ``t``: (B, *t_shape), flattened. Result: (B,), of either sign. The first part belongs to the
    batch and is spread evenly.

    Raises:
        ModelError: the batches differ in size.

    Differs from the authors' code: a feature that is constant over the batch has correlation 0 instead of 0/0, also in
    a batch of one.

    Paper: Miles, Rodriguez, Mikolajczyk, BMVC 2022, arXiv 2112.00459
    """

    couples = True

    def __init__(
        self,
        s_shape: Shape,
        t_shape: Shape,
        correlation_weight: NonNegative = 2.0,
        mutual_weight: NonNegative = 1.0,
        alpha: Positive = 1.01,
    ) -> None:
        super().__init__()
        self.correlation_weight, self.mutual_weight, self.alpha = correlation_weight, mutual_weight, alpha
        self.embed = nn.Linear(math.prod(s_shape), math.prod(t_shape))

    def forward(self, s: Tensor, t: Tensor, batch: Batch | None = None) -> Tensor:
        v, b = vectors(s, t)
        a = self.embed(v).float()
        v = v if v.shape == b.shape else a
        return self.correlation_weight * self.correlation(a, b) + self.mutual_weight * mutual(v, b)

    def correlation(self, a: Tensor, b: Tensor) -> Tensor:
        """Of vectors (B, D), a scalar. The sum never is 0: the factor (B-1)/B keeps c below 1."""
        c = (unit(deviations(a, 0), 0) * unit(deviations(b, 0), 0)).sum(0) * ((len(a) - 1) / len(a))
        return (c - 1).abs().pow(2 * self.alpha).sum().log2()


def mutual(a: Tensor, b: Tensor) -> Tensor:
    """The shared information that the student lacks, row by row, of vectors (B, D) and (B, D')."""
    a, b = unit(a), unit(b)
    alone, joint = inner(a), inner(a) * inner(b)
    some_a, some_b = a.any(1), b.any(1)  # a trace is the number of vectors that are not 0
    alone, joint = alone / some_a.sum().clamp_min(1), joint / (some_a & some_b).sum().clamp_min(1)
    return len(a) * (alone.square() - joint.square()).sum(1)
