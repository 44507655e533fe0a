"""What several logit losses share."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from potstill.errors import ModelError
from potstill.types import Batch


def kl(s: Tensor, t: Tensor) -> Tensor:
    """KL(softmax(t) || softmax(s)) over the last axis, of logits (..., C) of one shape, (...); finite for any finite logits."""
    return F.kl_div(s.log_softmax(-1), t.log_softmax(-1), reduction="none", log_target=True).sum(-1)


def labelled(batch: Batch | None, loss: str) -> tuple[Tensor, Tensor]:
    """The class of each sample, (B,), and whether it has one, (B,) of 0 and 1; a sample without has class 0.

    Where mixup or cutmix blended samples, the class with the largest share, as in NKD's code.
    """
    if batch is None:
        raise TypeError(f"{loss} reads the labels: give it the batch")
    y = batch.y if batch.targets is None else batch.targets.argmax(1)
    return y.clamp_min(0), (y >= 0).float()


def apart(y: Tensor, *logits: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Split each of these logits (B, C) into the log-odds of class ``y`` against all others, (B,), and the others', (B, C - 1).

    Everything stays in logits, so nothing is lost where the softmax of class ``y`` rounds to 1: ``log(1 - p)`` of a
    summed softmax is minus infinity from a gap of about 100 on.
    """
    y = y[:, None]
    columns = torch.arange(logits[0].shape[1] - 1, device=y.device)
    columns = columns + (columns >= y)
    split = [(z.gather(1, y).squeeze(1), z.gather(1, columns)) for z in logits]
    return [(label - others.logsumexp(1), others) for label, others in split]


def three_classes(s: Tensor, loss: str) -> None:
    """Refuse two classes where the loss compares the classes that are not the label."""
    if s.shape[1] < 3:
        raise ModelError(
            f"{loss} compares the classes other than the label, and with {s.shape[1]} classes there is at most one",
            hint="--method kd, the nearest that can",
        )
