"""Weighted transformed teacher matching."""

from __future__ import annotations

from torch import Tensor

from potstill.losses._logits import kl
from potstill.losses.base import Loss
from potstill.losses.kd import same_classes
from potstill.ranges import Positive
from potstill.types import Batch


class WTTM(Loss):
    r"""TTM that counts a sample more where the teacher is less sure.

    .. math:: \ell_b = U_b\, \mathrm{KL}\Big( \frac{(p^t_b)^\gamma}{U_b} \,\Big\|\, p^s_b \Big), \quad
              U_b = \sum_c (p^t_{bc})^\gamma, \quad p = \mathrm{softmax}(z)

    Args:
        gamma: the power :math:`\gamma`; 0.1, or 0.2 beside CRD, in the authors' examples on CIFAR-100.

    Shape: ``s``, ``t``: logits, (B, C). Result: (B,).

    Raises:
        ModelError: the logits differ in shape.

    U lies between 1 and :math:`C^{1 - \gamma}`, so the size of the loss depends on the number of classes.
    Differs from the authors' code: softmax(gamma z) and a log-sum-exp instead of a power of probabilities, which underflow.

    Paper: Zheng, Yang, ICLR 2024, arXiv 2402.11148
    """

    def __init__(self, gamma: Positive = 0.1) -> None:
        super().__init__()
        self.gamma = gamma

    def forward(self, s: Tensor, t: Tensor, batch: Batch | None = None) -> Tensor:
        same_classes(s, t)
        t = t.float()
        unsure = (self.gamma * t.log_softmax(1)).logsumexp(1).exp()
        return unsure * kl(s.float(), self.gamma * t)
