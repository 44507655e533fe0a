"""Transformed teacher matching."""

from __future__ import annotations

from torch import Tensor

from potstill.losses._logits import kl
from potstill.losses.base import Loss
from potstill.losses.kd import same_classes
from potstill.ranges import Positive
from potstill.types import Batch


class TTM(Loss):
    r"""Match the teacher's softened probabilities with the student's plain ones: no temperature on the student's side.

    .. math:: \ell_b = \mathrm{KL}\Big( \frac{(p^t_b)^\gamma}{\sum_c (p^t_{bc})^\gamma} \,\Big\|\, p^s_b \Big),
              \quad p = \mathrm{softmax}(z)

    The power transform is a temperature :math:`1 / \gamma` for the teacher alone; beside KD it adds a Rényi entropy of the
    student, which keeps it from being too sure.

    Args:
        gamma: the power :math:`\gamma`; 0.1 in the authors' example for VGG13 and VGG8 on CIFAR-100.

    Shape: ``s``, ``t``: logits, (B, C). Result: (B,).

    Raises:
        ModelError: the logits differ in shape.

    Differs from the authors' code: softmax(gamma z) instead of a power of probabilities, which underflow.

    Paper: Zheng, Yang, ICLR 2024, arXiv 2402.11148
    """

    def __init__(self, gamma: Positive = 0.1) -> None:
        super().__init__()
        self.gamma = gamma

    def forward(self, s: Tensor, t: Tensor, batch: Batch | None = None) -> Tensor:
        same_classes(s, t)
        return kl(s.float(), self.gamma * t.float())
