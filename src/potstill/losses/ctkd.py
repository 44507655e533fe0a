"""Curriculum temperature."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn

from potstill.errors import ModelError
from potstill.losses._logits import kl
from potstill.losses.base import Loss
from potstill.losses.kd import same_classes, standardized
from potstill.ranges import NonNegative, Positive, Share
from potstill.types import Batch, Shape

HIDDEN = 128


class CTKD(Loss):
    r"""KD whose temperature is learned *against* the student, harder and harder.

    .. math:: \ell_b = T^2\, \mathrm{KL}\big(\mathrm{softmax}(z^t_b / T) \,\|\, \mathrm{softmax}(z^s_b / T)\big), \quad
              T = T_0 + R\, \sigma(\theta)

    The gradient that reaches :math:`\theta` is multiplied by :math:`-\lambda`, so that the temperature climbs the loss that
    the student descends; :math:`\lambda = \tfrac12 (1 - \cos(\pi \min(1, \mathrm{progress} / \mathrm{ramp})))` grows from 0
    to 1. It also flows through T².

    Args:
        mode: ``global``: one :math:`\theta` for all samples, 1 at first (T = 15.6); ``instance``: each sample has its own, which
            two linear layers read from the logits of both nets.
        low: :math:`T_0`, the lowest temperature; 1 in the authors' code.
        span: R, the highest temperature less the lowest; 20 in the authors' code.
        ramp: share of the training in which :math:`\lambda` grows; 10 of 240 epochs in the authors' script, 5 of 100 on
            ImageNet.
        standardize: first bring each sample's logits to mean 0 and standard deviation 1, see :class:`KD`.
        s_shape: shape of the logits without the batch, (C,), for ``instance`` (filled in by probing).

    Shape: ``s``, ``t``: logits, (B, C). Result: (B,). Reads ``batch.progress``; without a batch :math:`\lambda = 1`.

    Raises:
        ModelError: the logits differ in shape, or ``instance`` lacks their shape.

    Differs from the authors' code: the width (128) of the layers of ``instance`` is ours, because theirs is not published;
    they read the logits detached, else the reversed gradient would teach the student to *raise* the loss through T.

    Known: in the training logs published with logit standardization, T falls to its lowest value within five epochs and
    stays there, so that the method becomes KD at a fixed T. Watch it (:meth:`temperature`).

    Paper: Li et al., AAAI 2023, arXiv 2211.16231
    """

    def __init__(
        self,
        mode: Literal["global", "instance"] = "global",
        low: Positive = 1.0,
        span: NonNegative = 20.0,
        ramp: Share = 10 / 240,
        standardize: bool = False,
        s_shape: Shape | None = None,
    ) -> None:
        super().__init__()
        self.mode, self.low, self.span, self.ramp, self.standardize = mode, low, span, ramp, standardize
        if mode == "global":
            self.theta = nn.Parameter(torch.ones(1))
        elif s_shape is None:
            raise ModelError("CTKD with mode 'instance' needs the shape of the logits", hint="CTKD(s_shape=(classes,))")
        else:
            self.mlp = nn.Sequential(nn.Linear(2 * s_shape[0], HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, 1))

    def forward(self, s: Tensor, t: Tensor, batch: Batch | None = None) -> Tensor:
        same_classes(s, t)
        s, t = s.float(), t.float()
        if self.standardize:
            s, t = standardized(s), standardized(t)
        T = self.temperature(s, t)
        # T's value with -strength times its gradient: the bracket is 0, and the detached T has none.
        T = T.detach() - self.strength(batch) * (T - T.detach())
        return T.square() * kl(s / T[:, None], t / T[:, None])

    def temperature(self, s: Tensor, t: Tensor) -> Tensor:
        """The temperature of each sample, (B,) or (1,), for logits (B, C)."""
        theta = self.theta if self.mode == "global" else self.mlp(torch.cat((t, s), 1).detach()).squeeze(1)
        return self.low + self.span * theta.float().sigmoid()

    def strength(self, batch: Batch | None) -> float:
        """By how much the temperature's gradient is reversed, in [0, 1]."""
        done = 1.0 if batch is None or self.ramp == 0 else min(batch.progress / self.ramp, 1.0)
        return (1 - math.cos(math.pi * done)) / 2
