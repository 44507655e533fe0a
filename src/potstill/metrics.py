"""How good are a net's answers? On tensors, on the device, with one wait for it at the end. Shares are in [0, 1]."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from potstill.errors import DataError, DivergedError, ModelError
from potstill.types import Batch

BINS = 15
"""Of the calibration error, as in Guo et al., arXiv 1706.04599."""


class Batches(Protocol):
    """``data.Stream`` with ``shuffle=False``, or anything of this form."""

    def epoch(self, e: int, start: int = 0) -> Iterator[Batch]:
        """The batches of an epoch."""


def evaluate(
    net: Callable[[Tensor], Tensor], stream: Batches, teacher_logits: Tensor | None = None
) -> tuple[dict[str, float], Tensor]:
    """Run a net over a stream and measure it, see :func:`from_logits`. A module is in eval mode meanwhile.

    Args:
        net: maps pictures (B, C, H, W) to logits (B, classes).
        stream: in the order of the data.
        teacher_logits: of the same pictures in the same order, (N, classes).

    Returns:
        the measures, and the logits (N, classes), float32, on the device.

    Raises:
        DivergedError: a logit is not finite.
        DataError: a label is not among the net's classes.
        ModelError: the net says something else than (B, classes).
    """
    if getattr(stream, "shuffle", False):
        raise ValueError(
            "the stream shuffles: logits would not be in the order of the data; make it with shuffle=False"
        )
    training = [m for m in net.modules() if m.training] if isinstance(net, nn.Module) else []
    logits, labels = [], []
    try:
        if isinstance(net, nn.Module):
            net.eval()
        with torch.no_grad():
            for batch in stream.epoch(0):
                said = net(batch.x)
                if not isinstance(said, Tensor) or said.ndim != 2 or len(said) != len(batch.x):
                    got = tuple(said.shape) if isinstance(said, Tensor) else type(said).__name__
                    raise ModelError(f"a net must say logits of shape ({len(batch.x)}, classes), got {got}")
                logits.append(said.float())
                labels.append(batch.y)
    finally:
        for module in training:
            module.training = True
    z = torch.cat(logits)
    return from_logits(z, torch.cat(labels), teacher_logits), z


@torch.no_grad()
def from_logits(logits: Tensor, y: Tensor, teacher_logits: Tensor | None = None) -> dict[str, float]:
    r"""Measures of logits.

    * ``top1``, ``top5`` (with more than 5 classes): share of the samples whose label is (among) the best.
    * ``nll``: mean of :math:`-\log p_y`, in nats.
    * ``ece``: :math:`\sum_b \frac{n_b}{N} |\mathrm{acc}_b - \mathrm{conf}_b|` over 15 equal bins of the top probability.
    * ``agreement``: share of the samples on which student and teacher choose the same class; with ``teacher_logits``.

    Samples without a label (y = -1) count for ``agreement`` only; without any label, it is all there is.

    Args:
        logits: (N, C).
        y: (N,), in 0..C-1, or -1.
        teacher_logits: (N, C).

    Raises:
        DivergedError: a logit is not finite: its argmax would be class 0, and accuracy at chance instead of an error.
        DataError: a label is not in 0..C-1.
        ModelError: the shapes differ.
    """
    z, y = _checked(logits, y)
    C, known = z.shape[1], y >= 0
    n, label = known.sum(), y.clamp(0, C - 1)
    p, choice = z.softmax(1).max(1)
    right = (choice == y).float()
    bins = (p * BINS).ceil().long().clamp(1, BINS) == torch.arange(1, BINS + 1, device=z.device)[:, None]
    said = {
        "top1": right.sum() / n,
        "nll": torch.where(known, F.cross_entropy(z, label, reduction="none"), 0.0).sum() / n,
        "ece": torch.where(bins & known, right - p, 0.0).sum(1).abs().sum() / n,
    }
    if C > 5:
        said["top5"] = (z.topk(5).indices == y[:, None]).sum() / n
    finite = z.isfinite().all()
    if teacher_logits is not None:
        if teacher_logits.shape != z.shape:
            raise ModelError(
                f"student and teacher logits differ in shape: {tuple(z.shape)} and {tuple(teacher_logits.shape)}"
            )
        teacher = teacher_logits.to(z.device)
        said["agreement"] = (choice == teacher.argmax(1)).float().mean()
        finite = finite & teacher.isfinite().all()
    checks = finite, ((y >= -1) & (y < C)).all(), n > 0
    ok, inside, any_label, *values = torch.stack([v.float() for v in (*checks, *said.values())]).tolist()
    if not ok:
        raise _not_finite(z)
    if not inside:
        raise _outside(y, C)
    return {k: v for k, v in zip(said, values, strict=True) if any_label or k == "agreement"}


def per_class(logits: Tensor, y: Tensor, C: int) -> Tensor:
    """Share of each class's samples that are put into it (recall), (C,); NaN for a class without samples."""
    table = confusion(logits, y, C)
    return table.diagonal() / table.sum(1)


def confusion(logits: Tensor, y: Tensor, C: int) -> Tensor:
    """How many samples of class i (row) are put into class j (column), (C, C), int64; samples with y = -1 are left out.

    Raises:
        DivergedError, DataError, ModelError: as :func:`from_logits`.
    """
    z, y = _checked(logits, y)
    if z.shape[1] != C:
        raise ModelError(f"expected logits of {C} classes, got {tuple(z.shape)}")
    if not z.isfinite().all():
        raise _not_finite(z)
    if ((y < -1) | (y >= C)).any():
        raise _outside(y, C)
    known = y >= 0
    return torch.bincount(y[known] * C + z.argmax(1)[known], minlength=C * C).view(C, C)


def _checked(logits: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    y = torch.as_tensor(y).to(logits.device)
    if logits.ndim != 2 or y.shape != logits.shape[:1]:
        raise ModelError(f"logits must be (N, C) and labels (N,), got {tuple(logits.shape)} and {tuple(y.shape)}")
    return logits.float(), y


def _not_finite(z: Tensor) -> DivergedError:
    bad = (~z.isfinite().all(1)).nonzero()[:, 0]
    if not len(bad):
        return DivergedError(
            "logits of the teacher are not finite", why="the argmax of NaN is class 0: agreement would mean nothing"
        )
    return DivergedError(
        f"logits are not finite for {len(bad)} of {len(z)} samples, first sample {int(bad[0])}",
        why="the argmax of NaN is class 0: accuracy would look like chance",
        hint="a lower learning rate, or precision=32",
    )


def _outside(y: Tensor, C: int) -> DataError:
    bad = ((y < -1) | (y >= C)).nonzero()[:, 0]
    return DataError(
        f"label {int(y[bad[0]])} of sample {int(bad[0])} is not one of the net's {C} classes (0..{C - 1})",
        hint="compare the classes of the data with the outputs of the net",
    )
