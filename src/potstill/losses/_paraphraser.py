"""The paraphraser of factor transfer, and the loss that trains it."""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor, nn

from potstill.losses._maps import BatchNorm, as_map, map_shape
from potstill.losses._squares import square_mean
from potstill.losses.base import Loss
from potstill.ranges import Positive
from potstill.types import Batch, Shape


class Paraphraser(nn.Module):
    """The teacher's last map, (B, C, H, W), said in fewer channels: a convolutional autoencoder without BatchNorm.

    Encoder: 3x3 convolutions C -> C -> kC -> kC, decoder: transposed ones back, LeakyReLU(0.1) after each, as published.
    """

    def __init__(self, channels: int, factors: int) -> None:
        super().__init__()
        c, k = channels, factors
        self.encoder = layers(nn.Conv2d, (c, c, k, k))
        self.decoder = layers(nn.ConvTranspose2d, (k, k, c, c))

    def forward(self, f: Tensor) -> Tensor:
        """The map built again from its factors, (B, C, H, W)."""
        again: Tensor = self.decoder(self.encoder(f))
        return again


def layers(
    kind: type[nn.Conv2d] | type[nn.ConvTranspose2d], channels: tuple[int, ...], norm: bool = False
) -> nn.Sequential:
    """3x3 layers through these channels, with BatchNorm on request and LeakyReLU(0.1)."""
    parts: list[nn.Module] = []
    for a, b in pairwise(channels):
        parts += [kind(a, b, 3, padding=1, bias=not norm), *([BatchNorm(b)] if norm else []), nn.LeakyReLU(0.1)]
    return nn.Sequential(*parts)


def factors(channels: int, rate: float) -> int:
    """How many channels a factor has, one at least."""
    return max(1, int(channels * rate))


class Paraphrase(Loss):
    r"""Train the paraphraser P of factor transfer to rebuild the teacher's map: the stage before :class:`FT`.

    .. math:: \ell_b = \frac{1}{CHW} \| P(F^t_b) - F^t_b \|^2

    Only the teacher's side is read; the student is not touched. :class:`FT` takes the trained ``paraphraser``.

    Args:
        t_shape: filled in by probing.
        rate: k, channels of the factor for one of the map; 0.5.

    Shape: ``t``: a map (B, C, H, W), tokens or a vector. Result: (B,).

    Paper: Kim, Park, Kwak, NeurIPS 2018, arXiv 1802.04977. 30 epochs at a learning rate of 0.01 in RepDistiller (0.05 where the
    student is no ResNet), 5 epochs at 0.1 in the authors' code.
    """

    def __init__(self, t_shape: Shape, rate: Positive = 0.5) -> None:
        super().__init__()
        channels = map_shape(t_shape)[0]
        self.paraphraser = Paraphraser(channels, factors(channels, rate))

    def forward(self, s: Tensor | None, t: Tensor, batch: Batch | None = None) -> Tensor:
        t = as_map(t)
        again = self.paraphraser(t)
        return square_mean(again, t)
