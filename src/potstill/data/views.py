"""Augmented views that can be replayed: (seed, id, view) decides the picture, and nothing else does."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from potstill.data import counter
from potstill.errors import ConfigError

ERASE_AREA, ERASE_RATIO = (0.02, 0.33), (0.3, 3.3)
"""Share of the picture and height : width of an erased box, as in Zhong et al., arXiv 1708.04896, and torchvision."""
GREY = (0.299, 0.587, 0.114)
"""Luma of red, green and blue, ITU-R BT.601."""


@dataclass(frozen=True)
class Views:
    """Batched augmentation on the device of the pictures.

    A view of a picture is a function of (seed, id, view number): it does not depend on the batch, its order, the device,
    the number of workers or what was drawn before, so a teacher's answers can be kept per (id, view), a run can be
    resumed exactly, and two nets can be shown the same view. Only :meth:`blend` also depends on the batch.

    Args:
        pad: zeros put around the picture, in pixels, before a crop of the old size at a random place.
        flip: mirror left and right with probability 1/2.
        colour: c; brightness, contrast and saturation are each scaled by a factor from [max(0, 1 - c), 1 + c], in this order.
        erase: probability of a box of zeros (random erasing, Zhong et al., arXiv 1708.04896).
        mixup: alpha of Beta(alpha, alpha), the share of a picture in its blend with another (Zhang et al., arXiv 1710.09412).
        cutmix: alpha, where a box is pasted instead (Yun et al., arXiv 1905.04899). With both, each sample takes one, 1 : 1.
        seed: another seed, other views.

    Raises:
        ConfigError: a setting out of range.
    """

    pad: int = 0
    flip: bool = False
    colour: float = 0.0
    erase: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("pad", "colour", "mixup", "cutmix"):
            if getattr(self, name) < 0:
                raise ConfigError(f"{name} must be 0 or more, got {getattr(self, name)}", where=f"views.{name}")
        if not 0 <= self.erase <= 1:
            raise ConfigError(f"erase is a probability in [0, 1], got {self.erase}", where="views.erase")

    @classmethod
    def auto(cls, source: str, shape: tuple[int, ...], **settings: Any) -> Views:
        """What suits a source: digits are moved by a pixel and not mirrored; others are padded by 1/8 of their size (4 at 32, as
        in the CIFAR protocol of He et al., arXiv 1512.03385) and mirrored."""
        auto: dict[str, Any] = (
            {"pad": 1, "flip": False} if source == "digits" else {"pad": shape[-1] // 8, "flip": True}
        )
        return cls(**(auto | settings))

    def __call__(self, pictures: Tensor, ids: Tensor, views: Tensor) -> Tensor:
        """The views, float32 in [0, 1], (B, C, H, W).

        Args:
            pictures: (B, C, H, W), uint8, or float in [0, 1].
            ids, views: (B,), int64, on the device of the pictures.
        """
        x = to_float(self.move(pictures, ids, views))
        if self.colour:
            x = self.recolour(x, ids, views)
        if self.erase:
            x = x.masked_fill(self.erased(x, ids, views), 0.0)
        return x

    def geometry(self, ids: Tensor, views: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Top and left of the crop in the padded picture, in [0, 2 pad], and whether it is mirrored (0 or 1); each (B,)."""
        top, left, flip = counter.bits(self.seed, ids, views, ("top", "left", "flip"))
        side = 2 * self.pad + 1
        return counter.below(top, side), counter.below(left, side), counter.below(flip, 2) * self.flip

    def move(self, x: Tensor, ids: Tensor, views: Tensor) -> Tensor:
        """Crop and mirror in one gather: a row of the result is W neighbours in the padded batch or in its mirror image."""
        if not (self.pad or self.flip):
            return x
        B, C, H, W = x.shape
        top, left, flip = self.geometry(ids, views)
        p, h, w = self.pad, H + 2 * self.pad, W + 2 * self.pad
        padded = x.new_zeros(1 + self.flip, B, C, h, w)
        padded[0, ..., p : p + H, p : p + W] = x
        if self.flip:
            padded[1, ..., p : p + H, p : p + W] = x.flip(3)
            left = torch.where(flip > 0, 2 * p - left, left)
        picture = (flip * B + torch.arange(B, device=x.device)) * (C * h * w) + top * w + left
        rows = torch.arange(C, device=x.device)[:, None] * (h * w) + torch.arange(H, device=x.device) * w
        return (
            padded.view(-1).unfold(0, W, 1).index_select(0, (picture[:, None, None] + rows).view(-1)).view(B, C, H, W)
        )

    def recolour(self, x: Tensor, ids: Tensor, views: Tensor) -> Tensor:
        """Brightness, contrast about the mean grey, saturation about the grey picture; each held in [0, 1]."""
        low, high = max(0.0, 1 - self.colour), 1 + self.colour
        u = counter.unit(counter.bits(self.seed, ids, views, ("brightness", "contrast", "saturation")))
        bright, contrast, saturation = (low + (high - low) * u)[:, :, None, None, None]
        x = (x * bright).clamp(0, 1)
        x = torch.lerp(_grey(x).mean((1, 2, 3), keepdim=True), x, contrast).clamp(0, 1)
        return torch.lerp(_grey(x), x, saturation).clamp(0, 1) if x.shape[1] == 3 else x

    def erased(self, x: Tensor, ids: Tensor, views: Tensor) -> Tensor:
        """Which pixels are erased, bool, (B, 1, H, W). Sides that would be longer than the picture are as long as it."""
        H, W = x.shape[2:]
        random = counter.bits(self.seed, ids, views, ("erase", "area", "ratio", "y", "x"))
        erase, area, ratio = counter.unit(
            random[:3]
        ).double()  # double: no rounding can fall on another side on another device
        area = (ERASE_AREA[0] + (ERASE_AREA[1] - ERASE_AREA[0]) * area) * (H * W)
        ratio = ERASE_RATIO[0] * (ERASE_RATIO[1] / ERASE_RATIO[0]) ** ratio
        h = (area * ratio).sqrt().round().long().clamp(1, H)
        w = (area / ratio).sqrt().round().long().clamp(1, W)
        y, left = counter.below(random[3], H - h + 1), counter.below(random[4], W - w + 1)
        return _box(y, y + h, left, left + w, H, W) & (erase < self.erase)[:, None, None, None]

    def blend(self, x: Tensor, y: Tensor, ids: Tensor, views: Tensor, num_classes: int) -> tuple[Tensor, Tensor]:
        """Blend each picture with the one before it in the batch (whose order is random), with a share of its own.

        Args:
            x: views, (B, C, H, W), float.
            y: labels, (B,); -1 where there is none, which adds nothing to the targets.
            ids, views: (B,), int64.
            num_classes: C of the targets.

        Returns:
            the blended pictures and their class probabilities, (B, num_classes); a row sums to the labelled share of its picture.
        """
        random = counter.bits(self.seed, ids, views, ("share", "cut", "centre y", "centre x"))
        cut = counter.unit(random[1]) < (0.5 if self.mixup and self.cutmix else float(self.cutmix > 0))
        H, W = x.shape[2:]
        share = torch.where(cut, _beta(random[0], self.cutmix or 1.0), _beta(random[0], self.mixup or 1.0))
        half = (1 - share).sqrt() / 2
        (top, bottom), (left, right) = (
            _span(counter.unit(r), half, n) for r, n in zip(random[2:], (H, W), strict=True)
        )
        share = torch.where(cut, 1 - (bottom - top) * (right - left) / (H * W), share)
        other = torch.where(
            cut[:, None, None, None], _box(top, bottom, left, right, H, W).to(x.dtype), (1 - share)[:, None, None, None]
        )
        target = F.one_hot(y.clamp_min(0), num_classes).float() * (y >= 0)[:, None]
        return torch.lerp(x, x.roll(1, 0), other), torch.lerp(target.roll(1, 0), target, share[:, None])

    @property
    def blends(self) -> bool:
        """Whether :meth:`blend` does anything."""
        return bool(self.mixup or self.cutmix)


def to_float(pictures: Tensor) -> Tensor:
    """uint8 to float32 in [0, 1], as ``x / 255``; float to float32."""
    return torch.div(pictures, 255) if pictures.dtype == torch.uint8 else pictures.float()


def _grey(x: Tensor) -> Tensor:
    if x.shape[1] != 3:
        return x.mean(1, keepdim=True)
    return (x[:, 0] * GREY[0] + x[:, 1] * GREY[1] + x[:, 2] * GREY[2])[:, None]


def _box(top: Tensor, bottom: Tensor, left: Tensor, right: Tensor, H: int, W: int) -> Tensor:
    """The pixels of one box a sample, bool, (B, 1, H, W)."""
    i, j = torch.arange(H, device=top.device)[:, None], torch.arange(W, device=top.device)
    top, bottom, left, right = (e[:, None, None, None] for e in (top, bottom, left, right))
    return (i >= top) & (i < bottom) & (j >= left) & (j < right)


def _span(centre: Tensor, half: Tensor, n: int) -> tuple[Tensor, Tensor]:
    """From and to, in [0, n], of an edge of length 2 half n about a centre, cut at the rim."""
    return ((centre - half) * n).round().long().clamp(0, n), ((centre + half) * n).round().long().clamp(0, n)


@lru_cache(maxsize=8)
def _beta_table(alpha: float, device: torch.device) -> Tensor:
    from scipy.special import betaincinv  # 0.2 s, and few runs blend

    return torch.from_numpy(betaincinv(alpha, alpha, np.linspace(0, 1, 4097)).astype(np.float32)).to(device)


def _beta(random: Tensor, alpha: float) -> Tensor:
    """Beta(alpha, alpha) by inversion, from a table of 4096 quantiles: no generator, no loop of rejection."""
    table, at = _beta_table(alpha, random.device), random >> 20
    return torch.lerp(table[at], table[at + 1], (random & 0xFFFFF).float() * 2**-20)
