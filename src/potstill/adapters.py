"""Bridges from a student's feature to a teacher's. A loss owns its adapters: they are trained, and thrown away at the end."""

from __future__ import annotations

from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from potstill.errors import ModelError
from potstill.types import Shape


class ConvReg(nn.Module):
    r"""The regressor of FitNets: a convolution that maps (B, c, h, w) to (B, C, H, W).

    One convolution by the ratio of the resolutions, as in the code of RepDistiller and SAKD, for any ratio:
    ``h == 2H``: 3x3 of stride 2; ``h >= H``: kernel (1 + h - H, 1 + w - W) where that is at most 5 (1x1 when equal), else
    average pooling to (H, W) and 1x1; ``2h == H``: transposed 4x4 of stride 2; else 1x1 and bilinear resizing to (H, W).
    Then BatchNorm and the activation. Vectors (B, d) are mapped by a linear layer, token maps (B, N, D) by a linear layer
    on each token after resampling the tokens; their "BatchNorm" is left out.

    Args:
        s_shape: shape of the student's feature without the batch, (c, h, w), (N, d) or (d,).
        t_shape: shape of the teacher's, of the same rank.
        activation: ``relu`` as published, where the teacher's map is not signed; ``none`` where it is: behind a ReLU no
            regressor can match a negative target (WRN's and MobileNetV2's stages are signed).

    Raises:
        ModelError: the two shapes have different ranks.
    """

    def __init__(self, s_shape: Shape, t_shape: Shape, activation: Literal["relu", "none"] = "none") -> None:
        super().__init__()
        if len(s_shape) != len(t_shape) or len(s_shape) not in (1, 2, 3):
            raise ModelError(
                f"no adapter from shape {tuple(s_shape)} to {tuple(t_shape)}: both must be maps (C, H, W), "
                "tokens (N, D) or vectors (D,)",
                hint="choose spots of one kind",
            )
        self.t_shape = tuple(t_shape)
        act: nn.Module = nn.ReLU() if activation == "relu" else nn.Identity()
        if len(s_shape) < 3:
            self.map: nn.Module = nn.Linear(s_shape[-1], t_shape[-1])
            self.after: nn.Module = act
            return
        (c, h, w), (C, H, W) = s_shape, t_shape
        if (h, w) == (2 * H, 2 * W):
            self.map = nn.Conv2d(c, C, 3, stride=2, padding=1)
        elif (2 * h, 2 * w) == (H, W):
            self.map = nn.ConvTranspose2d(c, C, 4, stride=2, padding=1)
        elif 0 <= h - H <= 4 and 0 <= w - W <= 4:
            self.map = nn.Conv2d(c, C, (1 + h - H, 1 + w - W))
        else:
            self.map = nn.Conv2d(c, C, 1)
        self.after = nn.Sequential(nn.BatchNorm2d(C), act)

    def forward(self, s: Tensor) -> Tensor:
        """(B, *s_shape) -> (B, *t_shape)."""
        if s.ndim == 3 and s.shape[1] != self.t_shape[0]:
            s = F.interpolate(s.transpose(1, 2), self.t_shape[0], mode="linear").transpose(1, 2)
        if s.ndim == 4 and isinstance(self.map, nn.Conv2d) and self.map.kernel_size == (1, 1):
            s = resized(s, (self.t_shape[1], self.t_shape[2]))
        mapped: Tensor = self.after(self.map(s))
        return mapped


def resized(f: Tensor, size: tuple[int, int]) -> Tensor:
    """A map (B, C, h, w) at another resolution: averaged where that is smaller, bilinear where it is larger."""
    if f.shape[2:] == size:
        return f
    if f.shape[2] >= size[0] and f.shape[3] >= size[1]:
        if f.shape[2] % size[0] or f.shape[3] % size[1] or not f.requires_grad:
            return F.adaptive_avg_pool2d(f, size)
        means: Tensor = _Blocks.apply(f, size)
        return means
    return F.interpolate(f, size, mode="bilinear", align_corners=False)


class _Blocks(torch.autograd.Function):
    """The mean of each block of a map, whole blocks each way. On a CPU the backward of torch takes three times as long."""

    @staticmethod
    def forward(ctx: Any, f: Tensor, size: tuple[int, int]) -> Tensor:
        ctx.block = (f.shape[2] // size[0], f.shape[3] // size[1])
        return F.adaptive_avg_pool2d(f, size)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None]:
        (h, w), (B, C, H, W) = ctx.block, g.shape
        g = g / (h * w)
        if not g.is_contiguous(memory_format=torch.channels_last):
            return g[:, :, :, None, :, None].expand(B, C, H, h, W, w).reshape(B, C, H * h, W * w), None
        spread = g.permute(0, 2, 3, 1)[:, :, None, :, None].expand(B, H, h, W, w, C)
        return spread.reshape(B, H * h, W * w, C).permute(0, 3, 1, 2), None
