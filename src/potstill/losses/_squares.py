"""Sums and means of squared differences, in one pass each way."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


class _SquareSums(torch.autograd.Function):
    """torch's squared error keeps both inputs and forms squares, sums and their gradients one after the other; what the gradient
    needs is the difference. 0.25 to 0.8 of the time, most where maps are channels-last (flattening would copy those)."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor, where: Tensor | None, kept: int) -> Tensor:
        difference = a.float() - b.float() if a.dtype != torch.float64 else a - b
        if where is not None:
            difference = difference * where
        ctx.save_for_backward(difference)
        axes = tuple(range(kept, difference.dim()))
        if kept > 1:  # a norm is slow along axes that do not lie together
            return difference.square().sum(axes)
        return torch.linalg.vector_norm(difference, dim=axes).square()  # without a tensor of the squares

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        (difference,) = ctx.saved_tensors
        slope = difference * (2 * g).view(*g.shape, *[1] * (difference.dim() - g.dim()))
        wanted, other = ctx.needs_input_grad[:2]
        return slope if wanted else None, -slope if other else None, None, None  # autograd gives them the inputs' types


def square_sums(a: Tensor, b: Tensor, where: Tensor | None = None, kept: int = 1) -> Tensor:
    r"""The sum of :math:`(a - b)^2` over all axes but the first ``kept``, float32 (float64 of float64), of two tensors of one
    shape, which have more than those: (B,) by default, (B, C) with 2 of maps.

    Args:
        where: counts these places only, as 0 elsewhere; bool, of their shape.
    """
    sums: Tensor = _SquareSums.apply(a, b, where, kept)
    return sums


def square_mean(a: Tensor, b: Tensor, where: Tensor | None = None) -> Tensor:
    r"""The mean of :math:`(a - b)^2` of each sample, (B,); as :func:`square_sums`."""
    return square_sums(a, b, where) / math.prod(a.shape[1:])


class ChannelSquares(torch.autograd.Function):
    """The sum of squares over channels, (B, C, H, W) -> (B, H, W): one pass over it in backward, autograd has three."""

    @staticmethod
    def forward(ctx: Any, f: Tensor) -> Tensor:
        ctx.save_for_backward(f)
        if f.is_contiguous(memory_format=torch.channels_last):
            return torch.linalg.vector_norm(f, dim=1).square()
        return f.square().sum(1)

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> Tensor:
        (f,) = ctx.saved_tensors
        return (2 * slope)[:, None] * f


class HingeSquares(torch.autograd.Function):
    r""":math:`\sum \max(0, m - \sigma s)^2` of each sample, (B,), where :math:`\sigma` is 1 for t > 0 and else -1: one pass over
    the map in backward, autograd has four."""

    @staticmethod
    def forward(ctx: Any, s: Tensor, t: Tensor, margin: float) -> Tensor:
        s = s if s.dtype == torch.float64 else s.float()
        sign = (t > 0).to(s.dtype).mul_(2).sub_(1)  # cheaper than torch.where
        above = (margin - sign * s).relu_().mul_(sign)
        ctx.save_for_backward(above)
        return torch.linalg.vector_norm(above, dim=tuple(range(1, above.dim()))).square()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None, None]:
        (above,) = ctx.saved_tensors
        return above * (-2 * g).view(-1, *[1] * (above.dim() - 1)), None, None
