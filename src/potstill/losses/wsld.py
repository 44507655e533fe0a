"""Weighted soft labels."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from potstill.losses._logits import labelled
from potstill.losses.base import Loss
from potstill.losses.kd import same_classes
from potstill.ranges import Positive
from potstill.types import Batch


class WSLD(Loss):
    r"""Soft cross-entropy, less of it for samples that the student already knows better than the teacher.

    .. math:: \ell_b = T^2 w_b \cdot \Big(-\sum_c p^t_{bc} \log p^s_{bc}\Big), \quad
              w_b = 1 - \exp\Big(-\frac{\mathrm{CE}(z^s_b, y_b)}{\mathrm{CE}(z^t_b, y_b)}\Big)

    with p = softmax(z / T) and plain cross-entropies in the weight, through which no gradient flows.

    Args:
        temperature: T; 4 on CIFAR-100 (the authors, issue 2 of their repository), 2 in their ImageNet code.

    Shape: ``s``, ``t``: logits, (B, C). Result: (B,); 0 for a sample without a label. Reads ``batch.y``.

    Raises:
        ModelError: the logits differ in shape.

    Paper: Zhou et al., ICLR 2021, arXiv 2102.00650
    """

    def __init__(self, temperature: Positive = 4.0) -> None:
        super().__init__()
        self.temperature = temperature

    def forward(self, s: Tensor, t: Tensor, batch: Batch | None = None) -> Tensor:
        same_classes(s, t)
        y, has_label = labelled(batch, "WSLD")
        s, t = s.float(), t.float()
        with torch.no_grad():
            ratio = F.cross_entropy(s, y, reduction="none") / (F.cross_entropy(t, y, reduction="none") + 1e-7)
            weight = has_label * -torch.expm1(-ratio)
        soft = (t / self.temperature).softmax(1)
        return self.temperature**2 * weight * -(soft * (s / self.temperature).log_softmax(1)).sum(1)
