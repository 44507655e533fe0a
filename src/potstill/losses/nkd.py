"""Normalized distillation."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import logsigmoid

from potstill.losses._logits import apart, labelled, three_classes
from potstill.losses.base import Loss
from potstill.losses.kd import same_classes
from potstill.ranges import NonNegative, Positive
from potstill.types import Batch


class NKD(Loss):
    r"""Cross-entropy with the teacher in two parts: on the label, and on the other classes brought to sum 1 each.

    .. math:: \ell_b = - t_y \log s_y - \gamma T^2 \sum_{c \ne y} \hat t_c \log \hat s_c

    where s and t are softmax(z), without a temperature, and :math:`\hat s, \hat t` the softmax of z / T over the classes
    other than the label y.

    Args:
        temperature: T of the second part; 1 in the authors' ImageNet configurations, 3 on CIFAR-100.
        gamma: weight of the second part; 1.5 on ImageNet, 3.5 on CIFAR-100.

    Shape: ``s``, ``t``: logits, (B, C), C >= 3. Result: (B,); 0 for a sample without a label. Reads ``batch.y``.

    Raises:
        ModelError: the logits differ in shape, or there are two classes (the second part is then always 0).

    The value holds the teacher's entropy and so is not 0 where the student equals the teacher.

    Paper: Yang et al., ICCV 2023, arXiv 2303.13005
    """

    def __init__(self, temperature: Positive = 1.0, gamma: NonNegative = 1.5) -> None:
        super().__init__()
        self.temperature, self.gamma = temperature, gamma

    def forward(self, s: Tensor, t: Tensor, batch: Batch | None = None) -> Tensor:
        same_classes(s, t)
        three_classes(s, "NKD")
        y, has_label = labelled(batch, "NKD")
        (s_odds, s_others), (t_odds, t_others) = apart(y, s.float(), t.float())
        target = -t_odds.sigmoid() * logsigmoid(s_odds)
        soft = (t_others / self.temperature).softmax(1)
        others = -(soft * (s_others / self.temperature).log_softmax(1)).sum(1)
        return has_label * (target + self.gamma * self.temperature**2 * others)
