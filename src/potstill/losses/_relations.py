"""Vectors of a batch, their directions and inner products: in float32, also under autocast, and with finite slopes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from potstill.errors import ModelError


def vectors(s: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    """Student's and teacher's features (B, ...) as float32 vectors, (B, D) each; the D may differ.

    Raises:
        ModelError: they are of batches of different sizes, or single numbers.
    """
    if len(s) != len(t) or min(s.ndim, t.ndim) < 2:
        raise ModelError(
            f"student and teacher must say one vector or map of each sample, got {tuple(s.shape)} and {tuple(t.shape)}",
            hint="choose spots whose first axis is the batch",
        )
    return s.flatten(1).float(), t.flatten(1).float()


def unit(x: Tensor, dim: int = -1) -> Tensor:
    """Vectors along ``dim`` brought to length 1. A zero vector has no direction: it stays zero and gets no gradient.

    ``x / x.norm()`` has a slope of 0/0 there, and ``x / norm.clamp_min(eps)`` one of 1/eps.
    """
    directions: Tensor = _Unit.apply(x, dim)
    return directions


class _Unit(torch.autograd.Function):
    """The slope of a direction is what is across it: two passes over it, autograd has five."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, dim: int) -> Tensor:
        scale = inverse_root(x.square().sum(dim, keepdim=True))
        u = x * scale
        ctx.save_for_backward(u, scale)
        ctx.dim = dim
        return u

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None]:
        u, scale = ctx.saved_tensors
        return torch.addcmul(g, u, (g * u).sum(ctx.dim, keepdim=True), value=-1) * scale, None


def inverse_root(squared: Tensor, least: float = 1e-24) -> Tensor:
    """1 / sqrt of each number, and 0 without gradient where it is not above ``least``."""
    return squared.masked_fill(squared <= least, torch.inf).rsqrt()


def deviations(x: Tensor, dim: int = -1) -> Tensor:
    """``x`` less its mean along ``dim``; zero, without gradient, where it is constant but for rounding.

    What is divided by the size of this rounding noise is noise with a slope of 1e7.
    """
    centred = x - x.mean(dim, keepdim=True)
    noise = centred.square().sum(dim, keepdim=True) <= 1e-12 * x.square().sum(dim, keepdim=True)
    return centred.masked_fill(noise, 0.0)


def inner(x: Tensor, y: Tensor | None = None) -> Tensor:
    """Inner products of the rows of x (..., N, D) and y (..., M, D), of x with itself by default, (..., N, M); float32.

    Autocast would run this product in half precision, where a Gram matrix of features overflows or loses the
    differences that relational losses are about.
    """
    y = x if y is None else y
    if not torch.is_autocast_enabled(x.device.type):  # entering a context costs as much as a small product
        return x @ y.mT
    with torch.autocast(x.device.type, enabled=False):
        return x @ y.mT


class Gram(torch.autograd.Function):
    """:func:`inner` of rows with themselves, with one product in its backward: autograd, which sees no symmetry, has two."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return inner(x)

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return (slope + slope.mT) @ x


def gram(x: Tensor) -> Tensor:
    """Inner products of all rows of x, (..., N, D), of which D is many times N; (..., N, N), float32."""
    products: Tensor = Gram.apply(x)
    return products
