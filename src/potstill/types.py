"""The records that travel: what the data say (:class:`Batch`) and what a net says of it (:data:`Out`)."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

Out = dict[str, Tensor]
"""What a net says about a batch, by spot: ``{"logits": (B, C), "layer2": (B, D, H, W), "fc@in": (B, D), ...}``."""

Shape = tuple[int, ...]
"""The shape of one sample at a spot, without the batch: ``(C, H, W)``, ``(tokens, D)`` or ``(D,)``."""


class Kept(list[Tensor]):
    """All that a loss reads of a teacher, (B, ...) each, in place of what the teacher says: see ``Loss.reduce``."""


class Batch(NamedTuple):
    """What the data say. A NamedTuple, because collating, pinning and device moves understand it.

    Attributes:
        x: pictures, (B, C, H, W), float in [0, 1]; each net normalises them in its own way.
        y: labels, (B,), int64; -1 where a sample has no label.
        ids: the position of each sample in its data set, (B,), int64; stable over splits, epochs and runs.
        views: the number of the augmented view of each sample, (B,), int64: (id, view) decides the picture.
        targets: class probabilities, (B, C), where mixup or cutmix blended samples; else None.
        second: another view of the same samples, (B, C, H, W), where a method compares two; else None.
        progress: the share of the stage's training that is done, in [0, 1]; schedules read it.
    """

    x: Tensor
    y: Tensor
    ids: Tensor
    views: Tensor
    targets: Tensor | None = None
    progress: float = 0.0
    second: Tensor | None = None
