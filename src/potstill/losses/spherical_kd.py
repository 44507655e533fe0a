"""Spherical distillation."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from potstill.losses._logits import kl
from potstill.losses.base import Loss
from potstill.losses.kd import same_classes, standardized
from potstill.ranges import Positive
from potstill.types import Batch


class SphericalKD(Loss):
    r"""KD without the size of the logits: only their direction counts, so the student need not become as sure as the teacher.

    .. math:: \ell_b = T^2\, \mathrm{KL}\big(\mathrm{softmax}(\hat z^t_b / T) \,\|\, \mathrm{softmax}(\hat z^s_b / T)\big)

    Without ``scale``, the student's logits get the spread of the teacher's, sample by sample:
    :math:`\hat z^s = z^s\, \mathrm{std}(z^t) / \mathrm{std}(z^s)`, :math:`\hat z^t = z^t`. With a ``scale`` m, both are
    brought to :math:`\hat z = m\, \mathrm{LayerNorm}(z)`.

    Args:
        temperature: T; 4 in the authors' command.
        scale: m; None (default) as in the authors' released code, 2 in their README and in PaddleClas.

    Shape: ``s``, ``t``: logits, (B, C). Result: (B,).

    Raises:
        ModelError: the logits differ in shape.

    Differs from the authors' code: they give the cross-entropy the scaled logits too, which needs the teacher and leaves
    probabilities that are not the student's own; here it reads the plain ones. Constant logits give no 0/0.

    Paper: Guo et al., 2020, arXiv 2010.07485
    """

    def __init__(self, temperature: Positive = 4.0, scale: Positive | None = None) -> None:
        super().__init__()
        self.temperature, self.scale = temperature, scale

    def forward(self, s: Tensor, t: Tensor, batch: Batch | None = None) -> Tensor:
        same_classes(s, t)
        s, t = s.float(), t.float()
        if self.scale is None:
            s = standardized(s) * t.std(1, keepdim=True)
        else:
            s, t = self.scale * F.layer_norm(s, s.shape[1:]), self.scale * F.layer_norm(t, t.shape[1:])
        return self.temperature**2 * kl(s / self.temperature, t / self.temperature)
