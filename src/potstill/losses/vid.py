"""Variational information distillation."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from potstill.losses._maps import Features, Shapes, as_maps, at_one_size, conv, shape_pairs
from potstill.losses._squares import square_sums
from potstill.losses.base import Loss
from potstill.ranges import Positive
from potstill.types import Batch

EPS = 1e-5


class VID(Loss):
    r"""Predict the teacher's maps from the student's with a learned variance for each channel.

    .. math:: \ell_b = \sum_i \frac{1}{C_i H_i W_i} \sum_{c,h,w} \tfrac12 \Big[
              \frac{(\mu_i(F^s_{b,i}) - F^t_{b,i})^2}{\sigma_{i,c}^2} + \log \sigma_{i,c}^2 \Big], \qquad
              \sigma^2 = \mathrm{softplus}(\alpha) + 10^{-5}

    :math:`\mu_i` is three 1x1 convolutions c -> C -> C -> C with ReLU between them, without bias. Where the resolutions
    differ, the larger map is averaged to the smaller first. The loss may be negative.

    Args:
        s_shape, t_shape: filled in by probing; lists where the spot is a list.
        variance: what every sigma² starts at; 5 in the authors' code.

    Shape: ``s``, ``t``: maps (B, C, H, W), tokens or vectors, or lists of as many; channels may differ. Result: (B,).

    Differs from the authors' code: their ``log(1 + exp(a))`` overflows for a > 88, softplus does not. (mdistiller keeps the
    variances in a list that no optimizer sees; here they are trained.)

    Raises:
        ModelError: not as many maps on both sides.

    Paper: Ahn et al., CVPR 2019, arXiv 1904.05835
    """

    def __init__(self, s_shape: Shapes, t_shape: Shapes, variance: Positive = 5.0) -> None:
        super().__init__()
        pairs = [(s[0], t[0]) for s, t in shape_pairs(s_shape, t_shape, "VID")]
        self.mean = nn.ModuleList(
            nn.Sequential(conv(c, C), nn.ReLU(), conv(C, C), nn.ReLU(), conv(C, C)) for c, C in pairs
        )
        above = max(variance - EPS, EPS)  # variance = softplus(start) + EPS
        start = above + math.log(-math.expm1(-above))
        self.scale = nn.ParameterList(nn.Parameter(torch.full((C,), start)) for _, C in pairs)

    def forward(self, s: Features, t: Features, batch: Batch | None = None) -> Tensor:
        ss, ts = as_maps(s, t, "VID")
        losses = []
        for f, g, mean, scale in zip(ss, ts, self.mean, self.scale, strict=True):
            f, g = at_one_size(f, g)
            losses.append(surprise(mean(f), scale, g))
        return torch.stack(losses).sum(0)


def surprise(mean: Tensor, scale: Tensor, t: Tensor) -> Tensor:
    """-log of the normal density of ``t``, (B, C, H, W), without its constant, averaged over each sample, (B,)."""
    variance, places = F.softplus(scale.float()) + EPS, math.prod(mean.shape[2:])
    return 0.5 * (square_sums(mean, t, kept=2) / (variance * places) + variance.log()).mean(1)
