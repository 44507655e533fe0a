"""Learning from the labels."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from potstill.losses.base import Loss
from potstill.ranges import Share
from potstill.types import Batch


class CE(Loss):
    r"""Cross-entropy with the labels.

    .. math:: \ell_b = -\log \mathrm{softmax}(z_b)_{y_b}

    A sample without a label (y = -1) gives 0. Where mixup or cutmix blended samples, the blended probabilities
    ``batch.targets`` are the target: :math:`\ell_b = -\sum_c q_{bc} \log \mathrm{softmax}(z_b)_c`.

    Args:
        smoothing: share of the probability that is spread evenly over the classes (Szegedy et al., arXiv 1512.00567).
            0 by default: a teacher trained with smoothing teaches worse (Müller et al., arXiv 1906.02629).

    Where another loss compares two views of each sample, both views learn from the label.

    Shape: ``s``: logits, (B, C); ``t`` is not read. Result: (B,). Reads ``batch.y`` and ``batch.targets``.
    """

    second_view = "sum"

    def __init__(self, smoothing: Share = 0.0) -> None:
        super().__init__()
        self.smoothing = smoothing

    def forward(self, s: Tensor, t: Tensor | None = None, batch: Batch | None = None) -> Tensor:
        if batch is None:
            raise TypeError("CE learns from the labels: give it the batch")
        if batch.targets is not None:
            return F.cross_entropy(s.float(), batch.targets, label_smoothing=self.smoothing, reduction="none")
        return F.cross_entropy(s.float(), batch.y, ignore_index=-1, label_smoothing=self.smoothing, reduction="none")
