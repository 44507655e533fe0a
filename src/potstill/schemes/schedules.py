"""Weights that change during the training: functions of its progress. No torch."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Ramp:
    """A weight that goes from one value to another.

    Args:
        first: the value up to ``begin``.
        last: the value from ``finish`` on.
        begin, finish: shares of the training, in [0, 1].
        shape: ``linear``; ``cosine``, flat at both ends; ``step``, the jump at ``finish``.
    """

    first: float
    last: float
    begin: float = 0.0
    finish: float = 1.0
    shape: Literal["linear", "cosine", "step"] = "linear"

    def __call__(self, progress: float) -> float:
        """The weight when the share ``progress`` of the training is done."""
        if progress >= self.finish:
            return self.last
        if progress <= self.begin or self.shape == "step":
            return self.first
        x = (progress - self.begin) / (self.finish - self.begin)
        if self.shape == "cosine":
            x = (1 - math.cos(math.pi * x)) / 2
        return self.first + x * (self.last - self.first)


Weight = float | Ramp


def weight_at(weight: Weight, progress: float) -> float:
    """The number that ``weight`` is at ``progress``."""
    return weight(progress) if isinstance(weight, Ramp) else weight
