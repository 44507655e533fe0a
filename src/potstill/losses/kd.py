"""Hinton's distillation."""

from __future__ import annotations

import math

import torch.nn.functional as F
from torch import Tensor

from potstill.errors import ModelError
from potstill.losses.base import Loss
from potstill.ranges import Positive
from potstill.types import Batch


def same_classes(s: Tensor, t: Tensor) -> None:
    """Refuse logits of unlike shapes: torch would broadcast (B, C) against (1, C) or (B, 1) in silence."""
    if s.shape != t.shape or s.ndim != 2:
        raise ModelError(
            f"student and teacher must say logits of one shape (B, C), got {tuple(s.shape)} and {tuple(t.shape)}",
            hint="give both nets the same classes in the same order",
        )


class KD(Loss):
    r"""Match the teacher's softened class probabilities.

    .. math:: \ell_b = T^2 \sum_c p^t_{bc} \log \frac{p^t_{bc}}{p^s_{bc}}, \quad p = \mathrm{softmax}(z / T)

    The factor :math:`T^2` keeps the size of the gradient when T changes.

    Args:
        temperature: T; a higher one looks more at the unlikely classes. 4 in the tables of RepDistiller and later work.
        standardize: first bring each sample's logits, of student and teacher, to mean 0 and (unbiased) standard deviation 1,
            ``(z - mean) / std`` (Sun et al., CVPR 2024, arXiv 2403.01427; they use T = 2 and weight 9, and add 1e-7 to std).

    Shape: ``s``, ``t``: logits, (B, C). Result: (B,).

    Raises:
        ModelError: the logits differ in shape.

    Paper: Hinton, Vinyals, Dean, 2015, arXiv 1503.02531
    """

    def __init__(self, temperature: Positive = 4.0, standardize: bool = False) -> None:
        super().__init__()
        self.temperature, self.standardize = temperature, standardize

    def forward(self, s: Tensor, t: Tensor, batch: Batch | None = None) -> Tensor:
        same_classes(s, t)
        s, t = s.float(), t.float()
        if self.standardize:
            s, t = standardized(s), standardized(t)
        log_p = F.log_softmax(s / self.temperature, dim=1)
        log_q = F.log_softmax(t / self.temperature, dim=1)
        return self.temperature**2 * F.kl_div(log_p, log_q, reduction="none", log_target=True).sum(1)


def standardized(z: Tensor) -> Tensor:
    """Each row brought to mean 0 and unbiased standard deviation 1, (B, C), in one pass each way.

    ``std`` has an infinite slope at 0; here 1e-14 is added to the variance, which leaves the gradient at a constant row finite.
    """
    C = z.shape[1]
    return F.layer_norm(z, (C,), eps=1e-14) * math.sqrt((C - 1) / C)
