"""Knowledge review."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from potstill.losses._maps import BatchNorm, Features, MapShape, Shapes, as_maps, conv, shape_pairs
from potstill.losses._squares import square_mean
from potstill.losses.base import Loss
from potstill.ranges import Count
from potstill.types import Batch


class ReviewKD(Loss):
    r"""Review early features with what later ones know: fuse the student's maps from the deepest up, and match each.

    From the deepest spot to the first, an attention-based fusion (ABF) maps :math:`F^s_i` to a common width, blends it with the
    (nearest-upsampled) result below by two learned attention maps, :math:`x_i = z_1 \odot f_i + z_2 \odot x_{i+1}`, and maps
    that to the teacher's shape by a 3x3 convolution. The hierarchical context loss (HCL) compares at several resolutions:

    .. math:: \ell_b = \sum_i \frac{1}{\sum_l w_l} \sum_{l \in \{H, 4, 2, 1\}} w_l\,
              \mathrm{mean}\big( (\mathrm{pool}_l \hat F^s_{b,i} - \mathrm{pool}_l F^t_{b,i})^2 \big)

    with w = 1 at full resolution, then 1/2, 1/4, 1/8; only resolutions l < H are pooled, each gets the next weight.

    Args:
        s_shape, t_shape: filled in by probing: lists, shallow to deep; published: all stages, then the penultimate vector,
            which counts as a 1x1 map (the teacher's stages before their activation).
        width: of the fused maps, at most; 512: the smaller of this and the student's deepest width.

    Shape: ``s``, ``t``: lists of as many maps (B, C, H, W), tokens or vectors; any channels, any resolutions. Result: (B,).

    Differs from the authors' code: shapes are read from the nets, not listed by hand for each pair; a BatchNorm that meets a
    single value (one sample's 1x1 map) uses its running statistics instead of failing. Published with a weight that grows
    linearly over the first 20 epochs.

    Raises:
        ModelError: not as many maps on both sides.

    Paper: Chen et al., CVPR 2021, arXiv 2104.09044
    """

    def __init__(self, s_shape: Shapes, t_shape: Shapes, width: Count = 512) -> None:
        super().__init__()
        pairs = shape_pairs(s_shape, t_shape, "ReviewKD")
        width = min(width, pairs[-1][0][0])
        self.fusions = nn.ModuleList(ABF(s, t, width, i + 1 < len(pairs)) for i, (s, t) in enumerate(pairs))

    def forward(self, s: Features, t: Features, batch: Batch | None = None) -> Tensor:
        ss, ts = as_maps(s, t, "ReviewKD")
        below: Tensor | None = None
        losses = []
        for fusion, f, g in zip(reversed(list(self.fusions)), reversed(ss), reversed(ts), strict=True):
            reviewed, below = fusion(f, below)
            losses.append(hcl(reviewed, g))
        return torch.stack(losses).sum(0)


class ABF(nn.Module):
    """Attention-based fusion of one student map (B, c, h, w) with the result below it.

    Returns:
        the map in the teacher's shape, (B, C, H, W), and the fused map, (B, width, H, W), for the next one.
    """

    def __init__(self, s: MapShape, t: MapShape, width: int, fuse: bool) -> None:
        super().__init__()
        self.size = t[1:]
        enter, leave = conv(s[0], width), conv(width, t[0], 3)
        for c in (enter, leave):
            nn.init.kaiming_uniform_(c.weight, a=1)
        self.enter, self.leave = nn.Sequential(enter, BatchNorm(width)), nn.Sequential(leave, BatchNorm(t[0]))
        self.attention = nn.Conv2d(2 * width, 2, 1) if fuse else nn.Identity()  # of the deepest, never asked

    def forward(self, f: Tensor, below: Tensor | None) -> tuple[Tensor, Tensor]:
        x = self.enter(f)
        if below is not None:
            below = F.interpolate(below, x.shape[2:], mode="nearest")
            z = self.attention(torch.cat([x, below], 1)).sigmoid()
            x = x * z[:, :1] + below * z[:, 1:]
        if x.shape[2:] != self.size:
            x = F.interpolate(x, self.size, mode="nearest")
        return self.leave(x), x


def hcl(s: Tensor, t: Tensor) -> Tensor:
    """The hierarchical context loss of maps of one shape (B, C, H, W) for each sample, (B,)."""
    total, weights = square_mean(s, t), 1.0
    pools = [size for size in (4, 2, 1) if size < s.shape[2]]
    for size, weight in zip(pools, (1 / 2, 1 / 4, 1 / 8), strict=False):
        difference = F.adaptive_avg_pool2d(s - t, size)  # pooling is linear
        total, weights = total + weight * difference.square().flatten(1).mean(1), weights + weight
    return total / weights
