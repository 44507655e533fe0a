"""Distillation by correlation."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from potstill.losses.base import Loss
from potstill.losses.kd import same_classes
from potstill.ranges import NonNegative, Positive
from potstill.types import Batch


class DIST(Loss):
    r"""Match how probabilities *correlate* with the teacher's, over the classes of a sample and over the samples of a class.

    .. math:: \ell_b = \tau^2 \Big[ \beta \big(1 - \rho(p^s_{b\cdot}, p^t_{b\cdot})\big)
              + \gamma \frac1C \sum_c \big(1 - \rho(p^s_{\cdot c}, p^t_{\cdot c})\big) \Big]

    with p = softmax(z / :math:`\tau`) and Pearson's correlation :math:`\rho`, whose denominator has 1e-8 added as in the
    authors' code. A correlation does not ask for the teacher's scale, which a small student cannot reach.

    Args:
        temperature: :math:`\tau`; 1 on ImageNet, 4 on CIFAR-100 in the authors' configurations.
        beta: weight of the correlation over the classes; 1 on ImageNet, 2 on CIFAR-100.
        gamma: weight of the correlation over the batch; 1 on ImageNet, 2 on CIFAR-100.

    Shape: ``s``, ``t``: logits, (B, C). Result: (B,). The second part belongs to the batch and is spread evenly; of a single
    sample it is :math:`\gamma \tau^2`, a constant.

    Raises:
        ModelError: the logits differ in shape.

    Differs from the authors' code: probabilities that are constant have correlation 0 *without gradient*; there a head
    that starts at zero gets a gradient of 1e7.

    Paper: Huang et al., NeurIPS 2022, arXiv 2205.10536
    """

    couples = True

    def __init__(self, temperature: Positive = 1.0, beta: NonNegative = 1.0, gamma: NonNegative = 1.0) -> None:
        super().__init__()
        self.temperature, self.beta, self.gamma = temperature, beta, gamma

    def forward(self, s: Tensor, t: Tensor, batch: Batch | None = None) -> Tensor:
        same_classes(s, t)
        p, q = (s.float() / self.temperature).softmax(1), (t.float() / self.temperature).softmax(1)
        classes = 1 - pearson(p, q, 1)
        samples = 1 - pearson(p, q, 0).mean()
        return self.temperature**2 * (self.beta * classes + self.gamma * samples)


def pearson(x: Tensor, y: Tensor, dim: int) -> Tensor:
    """Pearson's correlation of two matrices along ``dim``; 0, without gradient, where one is constant but for rounding."""
    (x, x_norm, x_constant), (y, y_norm, y_constant) = centred(x, dim), centred(y, dim)
    norms = (x_norm * y_norm).masked_fill(x_constant | y_constant, torch.inf)
    return (x * y).sum(dim) / (norms + 1e-8)


def centred(x: Tensor, dim: int) -> tuple[Tensor, Tensor, Tensor]:
    """``x`` less its mean along ``dim``, its norm there, and whether that is rounding; probabilities, so the mean is >= 0."""
    mean = x.mean(dim, keepdim=True)
    x = x - mean
    norm = x.norm(dim=dim)
    return x, norm, norm <= 1e-6 * math.sqrt(x.shape[dim]) * mean.squeeze(dim)
