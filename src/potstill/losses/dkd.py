"""Decoupled distillation."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import logsigmoid

from potstill.losses._logits import apart, kl, labelled, three_classes
from potstill.losses.base import Loss
from potstill.losses.kd import same_classes, standardized
from potstill.ranges import NonNegative, Positive
from potstill.types import Batch


class DKD(Loss):
    r"""Split KD into "how sure of the label" and "how the other classes compare", and weigh the two apart.

    .. math:: \ell_b = T^2 \left[ \alpha\, \mathrm{KL}\big((p^t_y, 1 - p^t_y) \,\|\, (p^s_y, 1 - p^s_y)\big)
              + \beta\, \mathrm{KL}(\hat p^t \,\|\, \hat p^s) \right]

    where p = softmax(z / T) and :math:`\hat p` is the softmax over the classes other than the label y. KD is
    :math:`\alpha = 1, \beta = 1 - p^t_y`: it silences the second part where the teacher is sure.

    Args:
        temperature: T; 4 in the authors' CIFAR-100 configurations, 1 on ImageNet.
        alpha: weight of the target part; 1 in all the authors' configurations.
        beta: weight of the other part. 8 for most pairs, 6 for WRN and VGG13 teachers, 2 for resnet56 and resnet110, 0.5 on
            ImageNet (mdistiller).
        standardize: first bring each sample's logits to mean 0 and standard deviation 1, see :class:`KD` (Sun et al.,
            arXiv 2403.01427; they multiply alpha and beta by 9 and use T = 2).

    Shape: ``s``, ``t``: logits, (B, C), C >= 3. Result: (B,); 0 for a sample without a label. Reads ``batch.y``.

    Raises:
        ModelError: the logits differ in shape, or there are two classes (the second part is then always 0).

    Differs from the authors' code: the two parts are computed from log-odds and never from probabilities, whose logarithm
    is infinite there from a gap of about 100 in z / T on.

    Paper: Zhao et al., CVPR 2022, arXiv 2203.08679
    """

    def __init__(
        self,
        temperature: Positive = 4.0,
        alpha: NonNegative = 1.0,
        beta: NonNegative = 8.0,
        standardize: bool = False,
    ) -> None:
        super().__init__()
        self.temperature, self.alpha, self.beta = temperature, alpha, beta
        self.standardize = standardize

    def forward(self, s: Tensor, t: Tensor, batch: Batch | None = None) -> Tensor:
        same_classes(s, t)
        three_classes(s, "DKD")
        y, has_label = labelled(batch, "DKD")
        s, t = s.float(), t.float()
        if self.standardize:
            s, t = standardized(s), standardized(t)
        (s_odds, s_others), (t_odds, t_others) = apart(y, s / self.temperature, t / self.temperature)
        target = binary_kl(s_odds, t_odds)
        others = kl(s_others, t_others)
        return self.temperature**2 * has_label * (self.alpha * target + self.beta * others)


def binary_kl(s: Tensor, t: Tensor) -> Tensor:
    """KL of two coins given by their log-odds, element by element."""
    return t.sigmoid() * (logsigmoid(t) - logsigmoid(s)) + (-t).sigmoid() * (logsigmoid(-t) - logsigmoid(-s))
