"""Relational knowledge distillation."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from potstill.losses._relations import inner, inverse_root, vectors
from potstill.losses.base import Loss
from potstill.ranges import NonNegative
from potstill.types import Batch


class RKD(Loss):
    r"""Match the distances between samples, and the angles that any two samples form at a third.

    .. math:: \ell_i = w_d \frac1B \sum_j h(d^s_{ij} - d^t_{ij}) + w_a \frac1{B^2} \sum_{jk} h(\cos^s_{jik} - \cos^t_{jik})

    with Huber's h (smooth L1), distances :math:`d_{ij} = \|v_i - v_j\|` divided by their mean over the batch, and the
    cosine at i between j and k. A weight of 0 leaves its part out.

    Args:
        distance_weight: :math:`w_d`; 25 in RepDistiller's tables, 1 in the authors' metric learning.
        angle_weight: :math:`w_a`; 50 in RepDistiller's tables, 2 in the authors' metric learning.

    Shape: ``s``, ``t``: vectors (B, D) or features (B, ...), which are flattened; the D may differ. Result: (B,), the loss of
    each sample as the vertex. Of a single sample it is 0.

    Raises:
        ModelError: the batches differ in size.

    Distances and angles come from one Gram matrix, so nothing is larger than B x B x B; the usual form holds B x B x D and
    costs B³ D. Samples closer to each other than a thousandth of their distance from the batch's mean count as one: they
    have distance 0 and no angle, because their direction would be rounding noise.

    Paper: Park et al., CVPR 2019, arXiv 1904.05068
    """

    def __init__(self, distance_weight: NonNegative = 25.0, angle_weight: NonNegative = 50.0) -> None:
        super().__init__()
        self.distance_weight, self.angle_weight = distance_weight, angle_weight

    def forward(self, s: Tensor, t: Tensor, batch: Batch | None = None) -> Tensor:
        a, b = vectors(s, t)
        of_s, of_t = Relations(a), Relations(b)
        loss = a.new_zeros(len(a))
        if self.distance_weight:
            difference = F.smooth_l1_loss(of_s.distances(), of_t.distances(), reduction="none")
            loss = loss + self.distance_weight * difference.mean(1)
        if self.angle_weight:
            difference = F.smooth_l1_loss(of_s.cosines(), of_t.cosines(), reduction="none")
            loss = loss + self.angle_weight * difference.mean((1, 2))
        return loss


class Relations:
    """Distances and angles of vectors (B, D), all read from their Gram matrix."""

    def __init__(self, x: Tensor) -> None:
        x = x - x.detach().mean(0)  # neither distances nor angles see the shift, so its gradient is 0
        self.gram = inner(x)
        self.length = x.square().sum(1)  # not gram.diagonal(): inductor compiles that to a wrong gradient
        size = self.length[:, None] + self.length
        squared = size - 2 * self.gram
        same = (squared <= 1e-6 * size) | torch.eye(len(x), dtype=torch.bool, device=x.device)
        self.squared = squared.masked_fill(same, 0.0)
        self.inverse = inverse_root(self.squared, 0.0)

    def distances(self) -> Tensor:
        """Distances (B, B), divided by the mean over all pairs of different samples."""
        d = self.squared * self.inverse
        mean = d.sum() / max(len(d) * (len(d) - 1), 1)
        return d / mean.where(mean > 0, 1.0)

    def cosines(self) -> Tensor:
        """The cosine at i between j and k, (B, B, B) as [i, j, k]; 0 where j or k is i."""
        g, r = self.gram, self.inverse
        between = g - g[:, :, None] - g[:, None, :] + self.length[:, None, None]
        return between * r[:, :, None] * r[:, None, :]
