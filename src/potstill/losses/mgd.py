"""Masked generative distillation."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from potstill.losses._maps import as_map, at_one_size, map_shape
from potstill.losses._squares import square_mean
from potstill.losses.base import Loss
from potstill.ranges import Share
from potstill.types import Batch, Shape


class MGD(Loss):
    r"""Generate the teacher's whole map from a part of the student's.

    .. math:: \ell_b = \sum_{c,h,w} \big( G(M \odot r(F^s_b)) - F^t_b \big)^2

    r is a 1x1 convolution (the identity where the channels are equal), M a random mask of 0 and 1, new for each sample and step,
    G two 3x3 convolutions with ReLU between them. In eval mode nothing is masked. Where the resolutions differ, the larger map
    is averaged to the smaller first. The sum makes the weight depend on channels and resolution.

    Args:
        s_shape, t_shape: filled in by probing.
        masked: share that is hidden: 0.15 for classification; 0.65 to 0.75 for detection and segmentation, with ``pixel``.
        mask: what is hidden: ``channel``: whole channels (the authors' code for classification), ``pixel``: all channels at a
            position (detection, segmentation).

    Shape: ``s``, ``t``: maps (B, C, H, W), tokens or vectors. Result: (B,).

    Differs from the authors' code: other resolutions are served; the weight (theirs is inside) is the link's.

    Paper: Yang et al., ECCV 2022, arXiv 2205.01529
    """

    def __init__(
        self, s_shape: Shape, t_shape: Shape, masked: Share = 0.15, mask: Literal["channel", "pixel"] = "channel"
    ) -> None:
        super().__init__()
        self.masked, self.mask = masked, mask
        c, C = map_shape(s_shape)[0], map_shape(t_shape)[0]
        self.align = nn.Identity() if c == C else nn.Conv2d(c, C, 1)
        self.generate = nn.Sequential(nn.Conv2d(C, C, 3, padding=1), nn.ReLU(), nn.Conv2d(C, C, 3, padding=1))

    def forward(self, s: Tensor, t: Tensor, batch: Batch | None = None) -> Tensor:
        f, g = at_one_size(as_map(s), as_map(t))
        f = self.align(f)
        again = self.generate(f * self.kept(f) if self.training else f)
        return square_mean(again, g) * g[0].numel()

    @torch.compiler.disable
    def kept(self, f: Tensor) -> Tensor:
        """The mask: 1 where (B, C, H, W) is seen; (B, C, 1, 1) or (B, 1, H, W)."""
        B, C, H, W = f.shape
        size = (B, C, 1, 1) if self.mask == "channel" else (B, 1, H, W)
        return (torch.rand(size, device=f.device) >= self.masked).to(f.dtype)
