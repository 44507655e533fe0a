"""The reused teacher classifier."""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

from potstill.adapters import resized
from potstill.losses._heads import FrozenHead, Linear
from potstill.losses._maps import BatchNorm, as_map, at_one_size, conv, map_shape, smaller
from potstill.losses._squares import square_mean
from potstill.losses.base import Loss
from potstill.ranges import Count
from potstill.types import Batch, Shape


class SimKD(Loss):
    r"""Match the teacher's last map through a projector, and classify with the teacher's classifier.

    .. math:: \ell_b = \frac{1}{CHW} \| P(F^s_b) - F^t_b \|^2

    P is 1x1 -> 3x3 -> 1x1 convolutions through C / r channels, each with BatchNorm and ReLU. Where the resolutions differ, the
    larger map is averaged to the smaller first. **The net that is deployed is the student's body, then** :meth:`deployed_head`:
    projector, average over positions, the teacher's classifier. The student's own classifier is not trained.

    Args:
        s_shape, t_shape: filled in by probing, at the maps that the global average pooling reads.
        t_head: the teacher's last linear layer; kept as a buffer.
        t_signed: whether the teacher's map has negative values; found by probing.
        reduction: r; 2 in the authors' tables.
        activation: of the projector's end: ``relu`` as published, ``none``, or ``auto``: ``relu`` unless ``t_signed``.

    Shape: ``s``, ``t``: maps (B, C, H, W). Result: (B,).

    Differs from the authors' code: only in ``activation``.

    Raises:
        ModelError: the teacher's last layer is not linear or does not read this map's average.

    Paper: Chen et al., CVPR 2022, arXiv 2203.14001
    """

    def __init__(
        self,
        s_shape: Shape,
        t_shape: Shape,
        t_head: Linear | None,
        t_signed: bool = True,
        reduction: Count = 2,
        activation: Literal["auto", "relu", "none"] = "auto",
    ) -> None:
        super().__init__()
        s, t = map_shape(s_shape), map_shape(t_shape)
        c, C = s[0], t[0]
        k = max(1, C // reduction)
        relu = activation == "relu" or (activation == "auto" and not t_signed)
        self.size = smaller(s, t)
        self.projector = nn.Sequential(
            *(conv(c, k), BatchNorm(k), nn.ReLU()),
            *(conv(k, k, 3), BatchNorm(k), nn.ReLU()),
            *(conv(k, C), BatchNorm(C), nn.ReLU() if relu else nn.Identity()),
        )
        self.classifier = FrozenHead(t_head, C, "teacher", "SimKD")

    def forward(self, s: Tensor, t: Tensor, batch: Batch | None = None) -> Tensor:
        f, g = at_one_size(as_map(s), as_map(t))
        return square_mean(self.projector(f), g)

    def deployed_head(self) -> ReusedHead:
        """What follows the student's body in the deployed net; it shares this loss's parameters."""
        return ReusedHead(self.projector, self.classifier, self.size)


class ReusedHead(nn.Module):
    """Projector, average over positions, the teacher's classifier: the student's last map (B, c, h, w) to logits (B, classes)."""

    def __init__(self, projector: nn.Module, classifier: FrozenHead, size: tuple[int, int]) -> None:
        super().__init__()
        self.projector, self.classifier, self.size = projector, classifier, size

    def forward(self, f: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.projector(resized(f, self.size)).mean((2, 3)))
        return logits
