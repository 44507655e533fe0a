"""Hints from the middle of the teacher."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from potstill.adapters import ConvReg
from potstill.errors import ModelError
from potstill.losses._squares import square_mean
from potstill.losses.base import Loss
from potstill.types import Batch, Shape


class FitNet(Loss):
    r"""Regress the teacher's feature map from the student's through a learned map r.

    .. math:: \ell_b = \frac{1}{CHW} \| r(F^s_b) - F^t_b \|^2

    Args:
        s_shape, t_shape: shapes of the two features without the batch (filled in by probing).
        activation: of r's end: ``relu`` as in the code of RepDistiller, ``none`` (default) where the paper has it linear.
            A ReLU cannot match the signed maps of WRN or MobileNetV2 teachers.

    Shape: ``s``: (B, *s_shape), ``t``: (B, *t_shape): maps, tokens or vectors. Result: (B,).

    Raises:
        ModelError: the features are of different kinds.

    Paper: Romero et al., ICLR 2015, arXiv 1412.6550. There the hint is trained first and KD follows; RepDistiller and all
    later tables train them jointly, as this loss beside cross-entropy does.
    """

    def __init__(self, s_shape: Shape, t_shape: Shape, activation: Literal["relu", "none"] = "none") -> None:
        super().__init__()
        if len(s_shape) != len(t_shape):
            raise ModelError(
                f"FitNet has no adapter from shape {tuple(s_shape)} to {tuple(t_shape)}: maps (C, H, W), tokens (N, D) and "
                "vectors (D,) are hints for their own kind only",
                hint="vid, which reads all of them as maps, or losses.NAME.at=[student_spot, teacher_spot] of one kind",
            )
        self.regressor = ConvReg(s_shape, t_shape, activation)

    def forward(self, s: Tensor, t: Tensor, batch: Batch | None = None) -> Tensor:
        return hint(self.regressor(s), t)


def hint(mapped: Tensor, t: Tensor) -> Tensor:
    """Mean squared difference of each sample, (B,), of two features of one shape (B, ...)."""
    return square_mean(mapped, t)
