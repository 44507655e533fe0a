"""Channel-wise distillation."""

from __future__ import annotations

from torch import Tensor, nn

from potstill.errors import ModelError
from potstill.losses._logits import kl
from potstill.losses._maps import as_map, at_one_size, map_shape, smaller
from potstill.losses.base import Loss
from potstill.ranges import Positive
from potstill.types import Batch, Shape


class CWD(Loss):
    r"""For each channel, put the mass where the teacher puts it: KL between softmaxes over the positions.

    .. math:: p_{c,i} = \frac{\exp(F_{c,i} / T)}{\sum_j \exp(F_{c,j} / T)}, \qquad
              \ell_b = \frac{T^2}{C} \sum_c \sum_i p^t_{b,c,i} \log \frac{p^t_{b,c,i}}{p^s_{b,c,i}}

    Made for dense maps (logits of a segmentation net, an FPN's levels). Other channels are mapped by a 1x1 convolution. Where the
    resolutions differ, the larger map is averaged to the smaller first.

    Args:
        s_shape, t_shape: filled in by probing.
        temperature: T; 4 in the authors' segmentation script; 1, with weight 5 a level, in their detection configurations.

    Shape: ``s``, ``t``: maps (B, C, H, W) or tokens. Result: (B,).

    Differs from the authors' code: log-softmax instead of the logarithm of a softmax, which underflows.

    Raises:
        ModelError: the smaller of the maps has a single position.

    Paper: Shu et al., ICCV 2021, arXiv 2011.13256
    """

    def __init__(self, s_shape: Shape, t_shape: Shape, temperature: Positive = 4.0) -> None:
        super().__init__()
        self.temperature = temperature
        one, other = map_shape(s_shape), map_shape(t_shape)
        if smaller(one, other) == (1, 1):
            raise ModelError(
                f"CWD compares where in a map the mass is, and at one position, {tuple(s_shape)} and {tuple(t_shape)}, it is 0",
                hint="fitnet or vid at this spot, or losses.NAME.at=[student_spot, teacher_spot] of larger maps",
            )
        self.align = nn.Identity() if one[0] == other[0] else nn.Conv2d(one[0], other[0], 1)

    def forward(self, s: Tensor, t: Tensor, batch: Batch | None = None) -> Tensor:
        f, g = at_one_size(as_map(s), as_map(t))
        T = self.temperature
        return T**2 * kl(self.align(f).float().flatten(2) / T, g.flatten(2) / T).mean(1)
