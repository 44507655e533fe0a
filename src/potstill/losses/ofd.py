"""The overhaul of feature distillation."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from potstill.losses._maps import BatchNorm, Features, Shapes, as_maps, at_one_size, conv, shape_pairs
from potstill.losses._squares import square_mean
from potstill.losses.base import Loss
from potstill.types import Batch


class OFD(Loss):
    r"""Match pre-activations, but only as far as a ReLU lets them matter: a partial squared distance above a margin.

    With connectors r (1x1 convolution and BatchNorm), margins :math:`m_c < 0` and n stages,

    .. math:: \ell_b = \frac{1}{1000} \sum_{i=1}^{n} 2^{i-n} \sum_{c,h,w} d_p(r_i(F^s), \max(F^t, m)), \qquad
              d_p(s, t) = \begin{cases} 0 & s \le t \le 0 \\ (s - t)^2 & \text{else} \end{cases}

    The margin of a channel is the mean of the teacher's negative pre-activations: in closed form from the BatchNorm before the
    activation (:func:`margin`), or, where the teacher has none, measured while training; the paper offers both.

    Args:
        s_shape, t_shape: filled in by probing; lists where the spot is a list.
        t_margin: margins of each stage, (C,) each, from the teacher's BatchNorm; None: measured, a running mean over all
            pre-activations seen in training, in ``state_dict``.

    Shape: ``s``, ``t``: pre-activation maps (B, C, H, W), tokens or vectors, or lists of as many. Result: (B,).

    Differs from the authors' code: 1/1000, there beside the loss, is part of it, so the published weight is 1 (mdistiller's
    0.001 is the same); the teacher is in eval mode (theirs is in train mode, and its statistics drift); the larger map is
    averaged to the smaller where the resolutions differ; margins are in ``state_dict``.

    Raises:
        ModelError: not as many maps on both sides.

    Paper: Heo et al., ICCV 2019, arXiv 1904.01866
    """

    def __init__(self, s_shape: Shapes, t_shape: Shapes, t_margin: Sequence[Tensor] | None = None) -> None:
        super().__init__()
        pairs = shape_pairs(s_shape, t_shape, "OFD")
        self.connectors = nn.ModuleList(connector(s[0], t[0]) for s, t in pairs)
        margins = [None] * len(pairs) if t_margin is None else list(t_margin)
        self.margins = nn.ModuleList(Margin(t[0], m) for (_, t), m in zip(pairs, margins, strict=True))

    def forward(self, s: Features, t: Features, batch: Batch | None = None) -> Tensor:
        return torch.stack(self.terms(s, t, batch)).sum(0)

    def terms(self, s: Features, t: Features, batch: Batch | None = None) -> list[Tensor]:
        """What each stage adds, (B,) each."""
        ss, ts = as_maps(s, t, "OFD")
        n = len(ss)
        losses = []
        for i, (f, g) in enumerate(zip(ss, ts, strict=True)):
            f, g = at_one_size(f, g)
            losses.append(0.001 * 2.0 ** (i + 1 - n) * partial_l2(self.connectors[i](f), g, self.margins[i](g)))
        return losses


class Margin(nn.Module):
    """The margin of each channel: as given, or the running mean of the negative values that it is shown in training."""

    value: Tensor
    seen: Tensor

    def __init__(self, channels: int, given: Tensor | None) -> None:
        super().__init__()
        self.measured = given is None
        self.register_buffer("value", torch.zeros(channels) if given is None else given.detach().clone().flatten())
        self.register_buffer("seen", torch.zeros(channels))

    @torch.no_grad()
    def forward(self, t: Tensor) -> Tensor:
        """The margins, (C,), after a look at ``t``, (B, C, H, W)."""
        if self.measured and self.training:
            negative = t.clamp_max(0)
            count = (negative < 0).sum((0, 2, 3))
            self.seen += count
            self.value += (negative.sum((0, 2, 3)) - count * self.value) / self.seen.clamp_min(1)
        return self.value.clone()


def connector(c: int, C: int) -> nn.Sequential:
    """1x1 convolution and BatchNorm, drawn as in the authors' code."""
    map_ = conv(c, C)
    nn.init.normal_(map_.weight, 0, math.sqrt(2 / C))
    return nn.Sequential(map_, BatchNorm(C))


def margin(weight: Tensor, bias: Tensor) -> Tensor:
    r"""Mean of the negative outputs of a BatchNorm with this weight and bias, (C,), if they are normal:

    :math:`E[x | x < 0] = \mu - \sigma \varphi(\mu/\sigma) / \Phi(-\mu/\sigma)` with :math:`\mu` the bias and :math:`\sigma`
    the absolute weight; :math:`-3\sigma` where fewer than one in a thousand are negative, as in the authors' code.
    """
    sigma = weight.detach().double().abs()
    mu = bias.detach().double()
    below = torch.special.ndtr(-mu / sigma)
    density = torch.exp(-0.5 * (mu / sigma).square()) / math.sqrt(2 * math.pi)
    mean = mu - sigma * density / below.clamp_min(1e-3)
    return torch.where(below > 1e-3, mean, -3 * sigma).to(weight.dtype)


def partial_l2(s: Tensor, t: Tensor, margin: Tensor) -> Tensor:
    """The partial squared distance of maps (B, C, H, W), summed over each sample, (B,); ``margin``: (C,)."""
    t = torch.maximum(t, margin[:, None, None])
    return square_mean(s, t, (s > t) | (t > 0)) * t[0].numel()
