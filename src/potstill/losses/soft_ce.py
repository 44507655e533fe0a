"""The soft cross-entropy of the first founding document."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from potstill.losses.base import Loss
from potstill.losses.kd import same_classes
from potstill.ranges import Positive
from potstill.types import Batch


class SoftCE(Loss):
    r"""Cross-entropy with the teacher's softened class probabilities, without the factor T².

    .. math:: \ell_b = -\sum_c p^t_{bc} \log p^s_{bc}, \quad p = \mathrm{softmax}(z / T)

    It equals KL plus the teacher's entropy, so its gradient is that of :class:`KD` divided by :math:`T^2`: a weight
    :math:`\alpha` here does what :math:`\alpha / T^2` does there.

    Args:
        temperature: T; 4 as in the golden case, the document leaves it open.

    Shape: ``s``, ``t``: logits, (B, C). Result: (B,).

    Raises:
        ModelError: the logits differ in shape.

    Paper: Hinton, Vinyals, Dean, 2015, arXiv 1503.02531, eq. 1; as written in founding document 001
    """

    def __init__(self, temperature: Positive = 4.0) -> None:
        super().__init__()
        self.temperature = temperature

    def forward(self, s: Tensor, t: Tensor, batch: Batch | None = None) -> Tensor:
        same_classes(s, t)
        p = F.softmax(t.float() / self.temperature, dim=1)
        return -(p * F.log_softmax(s.float() / self.temperature, dim=1)).sum(1)
