"""Class attention transfer."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from potstill.errors import ModelError
from potstill.losses._heads import FrozenHead, Linear, LiveHead
from potstill.losses._maps import as_map, map_shape
from potstill.losses._relations import unit
from potstill.losses._squares import square_mean
from potstill.losses.base import Loss
from potstill.ranges import Count
from potstill.types import Batch, Kept, Shape


class CATKD(Loss):
    r"""Look for each class where the teacher looks for it: match class activation maps.

    With the classifier W of each net, whose input is the average of its last map F over the positions,

    .. math:: A = W \, \mathrm{pool}_{r \times r}(F) \in R^{C \times r \times r}, \qquad
              \ell_b = \frac{1}{C r^2} \| A^s_b - A^t_b \|^2

    W of the student learns from this loss too.

    Args:
        s_shape, t_shape: filled in by probing, at the maps that the global average pooling reads.
        s_head: the student's last linear layer, the live one; not part of this loss's parameters.
        t_head: the teacher's, its classes in the order of the data; kept as a buffer.
        resolution: r; 2, and 4 for ShuffleNet students, in the authors' configurations.
        normalize: bring each class's map to unit length; the authors do for MobileNet and ShuffleNet students.

    Shape: ``s``, ``t``: maps (B, C, H, W). Result: (B,).

    Differs from the authors' code: there the nets are rebuilt so that the classifier, a 1x1 convolution without bias, precedes
    the pooling; here the maps are formed from the nets as they are, the bias left out, and pooled first, which is the same and
    cheaper. The published weight differs from pair to pair (0.7 to 600).

    Raises:
        ModelError: a classifier is not linear, does not read its map's average, or they have different classes.

    Paper: Guo et al., CVPR 2023, arXiv 2304.12777
    """

    packs = "values"
    reduce_by = ("theirs", "resolution", "normalize")

    def __init__(
        self,
        s_shape: Shape,
        t_shape: Shape,
        s_head: Linear | None,
        t_head: Linear | None,
        resolution: Count = 2,
        normalize: bool = False,
    ) -> None:
        super().__init__()
        self.resolution, self.normalize = resolution, normalize
        self.ours = LiveHead(s_head, map_shape(s_shape)[0], "student", "CAT-KD")
        self.theirs = FrozenHead(t_head, map_shape(t_shape)[0], "teacher", "CAT-KD")
        if self.ours.classes != len(self.theirs.weight):
            raise ModelError(
                f"student and teacher must have the same classes, got {self.ours.classes} and {len(self.theirs.weight)}",
                hint="use fitnet or at, which compare no classes",
            )

    def forward(self, s: Tensor, t: Tensor, batch: Batch | None = None) -> Tensor:
        return square_mean(self.attention(s, self.ours.weight(s)), self.reduce(t)[0])

    def reduce(self, t: Tensor | Kept) -> Kept:
        """The teacher's class activation maps, (B, classes, r²)."""
        return t if isinstance(t, Kept) else Kept([self.attention(t, self.theirs.weight)])

    def attention(self, f: Tensor, weight: Tensor) -> Tensor:
        """The pooled class activation maps, (B, classes, r²)."""
        with torch.autocast(f.device.type, enabled=False):
            pooled = F.adaptive_avg_pool2d(as_map(f), self.resolution).flatten(2)
            maps = weight @ pooled
            return unit(maps) if self.normalize else maps
