"""Distillation with a temperature for each sample."""

from __future__ import annotations

from torch import Tensor

from potstill.losses._logits import kl
from potstill.losses.base import Loss
from potstill.losses.kd import same_classes, standardized
from potstill.ranges import Positive
from potstill.types import Batch


class NormKD(Loss):
    r"""KD in which each sample's temperature is the spread of its own logits, student's and teacher's apart.

    .. math:: \ell_b = (T^t_b)^2\, \mathrm{KL}\big(\mathrm{softmax}(z^t_b / T^t_b) \,\|\, \mathrm{softmax}(z^s_b / T^s_b)\big),
              \quad T_b = \tau\, \mathrm{std}(z_b)

    It is KD of standardized logits at temperature :math:`\tau`, each sample weighted by its teacher's variance.

    Args:
        temperature: :math:`\tau`, the temperature in units of the standard deviation (unbiased); 2 on CIFAR-100, 1 on
            ImageNet in the authors' configurations.

    Shape: ``s``, ``t``: logits, (B, C). Result: (B,).

    Raises:
        ModelError: the logits differ in shape.

    Differs from the authors' code: constant logits (standard deviation 0) give uniform probabilities instead of 0/0.

    Paper: Chi et al., 2023, arXiv 2308.00520
    """

    def __init__(self, temperature: Positive = 2.0) -> None:
        super().__init__()
        self.temperature = temperature

    def forward(self, s: Tensor, t: Tensor, batch: Batch | None = None) -> Tensor:
        same_classes(s, t)
        s, t = s.float(), t.float()
        divergence = kl(standardized(s) / self.temperature, standardized(t) / self.temperature)
        return self.temperature**2 * t.var(1) * divergence
