"""Inter-channel correlation."""

from __future__ import annotations

from torch import Tensor, nn

from potstill.errors import ModelError
from potstill.losses._maps import BatchNorm, as_map, conv, map_shape
from potstill.losses._relations import gram, inner, inverse_root
from potstill.losses.base import Loss
from potstill.types import Batch, Shape


class ICKD(Loss):
    r"""Match which channels fire together: the Gram matrix of the channels of each sample, not of the samples.

    .. math:: \ell_b = \frac1C \sum_c \Big\| \frac{G^s_{bc}}{\|G^s_{bc}\|} - \frac{G^t_{bc}}{\|G^t_{bc}\|} \Big\|^2,
              \quad G_b = F_b F_b^\top

    F holds a map as (C, H·W); the student's goes through a 1x1 convolution and BatchNorm to the teacher's channels first.
    Resolutions may differ.

    Args:
        s_shape, t_shape: shapes of the two features without the batch, (C, H, W) or (N, D) (filled in by probing).

    Shape: ``s``: (B, *s_shape), ``t``: (B, *t_shape): maps, or tokens, which are maps of D channels. Result: (B,).

    Raises:
        ModelError: a feature is a vector: it has no positions over which channels could fire together.

    Differs from the authors' code in the way, not in the value: the row products are formed through H·W x H·W matrices
    where these are smaller than C x C (1 GB against 8 MB for a ResNet50 teacher at 4 x 4 and batch 64). Their second
    embedding, never used, is left out. This is their ICKD-C, for classification.

    Paper: Liu et al., ICCV 2021, arXiv 2202.03680
    """

    def __init__(self, s_shape: Shape, t_shape: Shape) -> None:
        super().__init__()
        if min(len(s_shape), len(t_shape)) < 2:
            raise ModelError(
                f"ICKD compares the channels of maps (C, H, W) or tokens (N, D), got {tuple(s_shape)} and {tuple(t_shape)}",
                hint="losses.ickd.at=last on a convolutional pair; pkt compares vectors",
            )
        C = map_shape(t_shape)[0]
        self.embed = nn.Sequential(conv(map_shape(s_shape)[0], C), BatchNorm(C))

    def forward(self, s: Tensor, t: Tensor, batch: Batch | None = None) -> Tensor:
        f, h = channels(self.embed(as_map(s))), channels(as_map(t))
        ff, hh, fh = products(f, h)
        of_f, of_h = inverse_root(ff), inverse_root(hh)
        # |u - v|² = |u|² + |v|² - 2 uv for rows of length 1, or 0 where a channel is dead
        return (ff * of_f.square() + hh * of_h.square() - 2 * fh * of_f * of_h).mean(1)


def channels(f: Tensor) -> Tensor:
    """A map as (B, C, H·W), each sample's brought to length 1, which the loss does not see but float32 does."""
    flat = f.float().flatten(1)
    scale = inverse_root(flat.detach().square().sum(1, keepdim=True))  # what does not see it has no gradient through it
    return (flat * scale).reshape(len(f), f.shape[1], -1)


def products(f: Tensor, h: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The inner products of rows c of F Fᵀ and F Fᵀ, H Hᵀ and H Hᵀ, F Fᵀ and H Hᵀ, for every channel c, (B, C) each."""
    if f.shape[1] <= max(f.shape[2], h.shape[2]):
        a, b = gram(f), gram(h)
        return a.square().sum(2), b.square().sum(2), (a * b).sum(2)
    ff, hh, fh = ((inner(x, inner(y.mT, x.mT)) * y).sum(2) for x, y in ((f, f), (h, h), (f, h)))
    return ff, hh, fh
