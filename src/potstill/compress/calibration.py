"""Pictures to find ranges with: few, of every class alike, the same in every run."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from potstill.data.arrays import Data
from potstill.data.views import to_float
from potstill.errors import ConfigError, DataError

LARGEST = 4096
"""Most pictures that are calibrated with: more do not change ranges, and they are all held in memory."""


def chosen(data: Data, n: int, seed: int = 0) -> np.ndarray:
    """Places of ``n`` pictures of ``data``, as many of each class as there are, up to an equal share; in a random order.

    Classes take turns, so that any number of the first pictures is balanced too. Without labels, any pictures.

    Raises:
        ConfigError: ``n`` is not in 1..4096.
        DataError: there are no pictures.
    """
    if not 1 <= n <= LARGEST:
        raise ConfigError(f"calibration takes 1..{LARGEST} pictures, got {n}")
    if not len(data):
        raise DataError("there are no pictures to calibrate with")
    order = np.random.default_rng(seed).permutation(len(data))
    labels = data.labels[order]
    by_class = np.argsort(labels, kind="stable")
    starts = np.searchsorted(labels[by_class], labels[by_class], side="left")
    turn = np.empty(len(order), dtype=np.int64)
    turn[by_class] = np.arange(len(order)) - starts  # how many of its class come before it
    turn[labels < 0] += len(order)  # without a label: only when the others do not suffice
    return order[np.argsort(turn, kind="stable")][:n]


def pictures(data: Data, n: int, seed: int = 0) -> Tensor:
    """Calibration pictures, (n, C, H, W), float32 in [0, 1], see :func:`chosen`."""
    return to_float(torch.from_numpy(np.ascontiguousarray(data.pictures(chosen(data, n, seed)))))
