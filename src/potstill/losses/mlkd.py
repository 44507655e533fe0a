"""Multi-level logit distillation."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from potstill.errors import ModelError
from potstill.losses._logits import kl
from potstill.losses._relations import inner
from potstill.losses.base import Loss
from potstill.losses.kd import same_classes, standardized
from potstill.ranges import Positive, Share
from potstill.types import Batch


class MLKD(Loss):
    r"""Match predictions at several temperatures on three levels: of a sample, between samples, between classes.

    With P the (B, C) probabilities softmax(z / T), all summed over the temperatures:

    .. math:: \ell_b = \sum_T \Big[ m_b T^2\, \mathrm{KL}(p^t_b \| p^s_b)
              + m_b \big\| (P^s P^{s\top} - P^t P^{t\top})_b \big\|^2
              + \frac1C \sum_c n_c \big\| (P^{s\top} P^s - P^{t\top} P^t)_c \big\|^2 \Big]

    The masks m and n keep the samples whose teacher's confidence, and the classes whose summed confidence, is at most the
    quantile ``hardest`` of the batch. A second view of the batch (strongly augmented in the paper's runs) adds its
    :math:`T^2 \mathrm{KL}` at all temperatures, without a mask.

    Args:
        temperatures: T; 4, 3, 5, 2, 6 in the authors' code.
        hardest: share of samples and of classes that count; 0.5 in the authors' code, 1 for all.
        standardize: first bring each sample's logits to mean 0 and standard deviation 1, see :class:`KD`.

    Shape: ``s``, ``t``: logits, (B, C), or lists of them: [weak view, strong view]. Result: (B,). The third part belongs to
    the batch and is spread evenly.

    Raises:
        ModelError: the logits differ in shape, or the lists in length.

    Differs from the authors' code, which multiplies the *mean* loss by the mask (a factor of about 0.5) and at T = 2 and 6
    reads the weak view for the strong one: here the mask chooses samples and classes, each view is read where it is meant.
    Their terms between samples and between classes of the strong view are computed but never added, so they are left out.

    Paper: Jin, Wang, Lin, CVPR 2023 (Multi-Level Logit Distillation); standardized: arXiv 2403.01427
    """

    couples = True
    second_view = "pair"

    def __init__(
        self,
        temperatures: tuple[Positive, ...] = (4.0, 3.0, 5.0, 2.0, 6.0),
        hardest: Share = 0.5,
        standardize: bool = False,
    ) -> None:
        super().__init__()
        self.temperatures, self.hardest, self.standardize = tuple(temperatures), hardest, standardize

    def forward(self, s: Tensor | Sequence[Tensor], t: Tensor | Sequence[Tensor], batch: Batch | None = None) -> Tensor:
        ss, ts = ([z] if isinstance(z, Tensor) else list(z) for z in (s, t))
        if len(ss) != len(ts) or not ss:
            raise ModelError(f"MLKD needs as many views of the teacher as of the student, got {len(ts)} and {len(ss)}")
        for one, other in zip(ss, ts, strict=True):
            same_classes(one, other)
        T = torch.tensor(self.temperatures, device=ss[0].device)[:, None, None]
        views = [(self.scaled(one, T), self.scaled(other, T)) for one, other in zip(ss, ts, strict=True)]
        kls = [(T.squeeze(2).square() * kl(one, other)).sum(0) for one, other in views]

        p, q = views[0][0].softmax(2), views[0][1].softmax(2)
        sure = ts[0].float().softmax(1)
        samples, classes = self.hard(sure.amax(1)), self.hard(sure.sum(0))
        between_samples = (inner(p) - inner(q)).square().sum((0, 2))
        between_classes = (inner(p.mT) - inner(q.mT)).square().sum((0, 2))
        alike = samples * (kls[0] + between_samples) + (classes * between_classes).mean()
        return sum(kls[1:], alike)

    def scaled(self, z: Tensor, T: Tensor) -> Tensor:
        """Logits at every temperature, (temperatures, B, C)."""
        return (standardized(z.float()) if self.standardize else z) / T  # T, a float32 tensor, widens halves

    def hard(self, confidence: Tensor) -> Tensor:
        """Whether the confidence is at most the quantile."""
        return confidence <= torch.quantile(confidence, self.hardest)
