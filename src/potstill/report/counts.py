"""What the page counts in logits: calibration, accuracy of each class, pictures that only one net has right."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from potstill.report.read import Said

BINS = 15  # of the reliability diagram; 15 equal widths as in Guo et al. 2017, arXiv 1706.04599


def flips(a: Said, b: Said) -> tuple[int, int]:
    """How many pictures only ``a``, and only ``b``, has right."""
    return int((a.right & ~b.right).sum()), int((b.right & ~a.right).sum())


def calibration(said: Sequence[Said], bins: int = BINS) -> list[dict[str, float]]:
    """The reliability diagram of one role, all seeds pooled: mean confidence and accuracy of each bin that has pictures."""
    if not said:
        return []
    confidence = np.concatenate([s.confidence for s in said]).astype(np.float64)
    right = np.concatenate([s.right for s in said])
    index = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)  # (low, high], as published
    count = np.bincount(index, minlength=bins)
    filled = count > 0
    mean = np.bincount(index, confidence, bins)[filled] / count[filled]
    accuracy = np.bincount(index, right, bins)[filled] / count[filled]
    rows = zip(mean, accuracy, count[filled], strict=True)
    return [{"confidence": float(m), "accuracy": float(a), "n": int(k)} for m, a, k in rows]


def class_accuracy(said: Sequence[Said], classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Accuracy of each class, mean over the nets, and its number of pictures, (C,) each; NaN where there are none."""
    counts = np.bincount(said[0].y, minlength=classes)
    right = np.mean([np.bincount(s.y[s.right], minlength=classes) for s in said], axis=0)
    return np.divide(right, counts, out=np.full(len(counts), np.nan), where=counts > 0), counts
