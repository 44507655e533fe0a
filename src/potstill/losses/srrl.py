"""Softmax regression representation learning."""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

from potstill.losses._heads import FrozenHead, Linear
from potstill.losses._maps import BatchNorm, as_map, conv, map_shape, pooled
from potstill.losses._squares import square_mean
from potstill.losses.base import Loss
from potstill.ranges import NonNegative
from potstill.types import Batch, Shape


class SRRL(Loss):
    r"""Match the teacher's penultimate vector, and what the teacher's own classifier makes of it.

    With a connector c (1x1 convolution, BatchNorm, activation) and the teacher's classifier W, b,

    .. math:: \ell_b = \frac1d \| c(v^s_b) - v^t_b \|^2 + \lambda \frac1C \| W c(v^s_b) - W v^t_b \|^2

    Maps are connected position by position and then averaged, as in the authors' code.

    Args:
        s_shape, t_shape: filled in by probing.
        t_head: the teacher's last linear layer; kept as a buffer.
        t_signed: whether the teacher's features have negative values; found by probing.
        activation: of the connector's end: ``relu`` as published, ``none``, or ``auto``: ``relu`` unless ``t_signed``: behind a
            ReLU no connector can match a negative target.
        classification: lambda, weight of the second term; 1.

    Shape: ``s``, ``t``: penultimate vectors (B, d), maps or tokens. Result: (B,).

    Differs from the authors' code: the teacher's logits are computed here from its vector; ``activation``.

    Raises:
        ModelError: the teacher's last layer is not linear or does not read this spot.

    Paper: Yang, Martinez, Bulat, Tzimiropoulos, ICLR 2021 (openreview ZzwDy_wiWv; no arXiv version)
    """

    def __init__(
        self,
        s_shape: Shape,
        t_shape: Shape,
        t_head: Linear | None,
        t_signed: bool = True,
        activation: Literal["auto", "relu", "none"] = "auto",
        classification: NonNegative = 1.0,
    ) -> None:
        super().__init__()
        self.classification = classification
        c, C = map_shape(s_shape)[0], map_shape(t_shape)[0]
        relu = activation == "relu" or (activation == "auto" and not t_signed)
        self.connector = nn.Sequential(conv(c, C), BatchNorm(C), nn.ReLU() if relu else nn.Identity())
        self.head = FrozenHead(t_head, C, "teacher", "SRRL")

    def forward(self, s: Tensor, t: Tensor, batch: Batch | None = None) -> Tensor:
        ours, theirs = pooled(self.connector(as_map(s))), pooled(t)
        features = square_mean(ours, theirs)
        logits = square_mean(self.head(ours), self.head(theirs))
        return features + self.classification * logits
