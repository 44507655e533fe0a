"""A user's own datasets: anything with ``len(d)`` and ``d[i] -> (picture, label)``, as ``torch.utils.data.Dataset`` has it.

Datasets whose items are fixed uint8 pictures are read once into the store, like every other source. Others (random
transforms, float pictures) stay live: their items are fetched whenever a batch is made.
"""

from __future__ import annotations

import copy
import hashlib
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from PIL import Image

from potstill.data.arrays import Data, to_labels
from potstill.data.pictures import decode, to_chw
from potstill.data.store import Raw
from potstill.errors import DataError

PARTS = ("train", "val", "test")
PROBES = 32
"""Items that are read twice to see whether a dataset draws at random."""


class LiveData(Data):
    """A dataset whose items are fetched batch by batch.

    Random transforms draw from the global generators of torch, numpy and Python. These are set from the seed of the batch
    while it is fetched, and put back afterwards: a batch depends on (seed, epoch, step) alone, with any number of workers.

    Args:
        dataset: the user's.
        labels: (N,), of all items.
        ids: (N,).
        size, channels: see :func:`potstill.data.pictures.decode`; for PIL and uint8 pictures.
    """

    names = None

    def __init__(
        self, dataset: Any, labels: np.ndarray, ids: np.ndarray, size: int | None = None, channels: int | None = None
    ) -> None:
        self.dataset, self.labels, self.ids, self.rows = dataset, to_labels(labels), ids, np.arange(len(labels))
        self.size, self.channels = size, channels
        self.shape = self.pictures(np.arange(1)).shape[1:]
        self.content = hashlib.sha256(
            repr((type(dataset).__name__, self.shape)).encode() + self.labels.tobytes()
        ).hexdigest()

    def pictures(self, at: np.ndarray | Sequence[int], seed: int = 0) -> np.ndarray:
        with seeded(seed):
            pictures = [self._pixels(self.dataset[int(row)][0]) for row in self.rows[at]]
        if len({(p.shape, p.dtype) for p in pictures}) > 1:
            seen = sorted({f"{p.dtype} {p.shape}" for p in pictures})
            raise DataError(
                f"items of the dataset differ: {', '.join(seen[:3])}",
                hint="resize them in its transform, or set data.size=",
            )
        return np.stack(pictures)

    def _pixels(self, picture: Any) -> np.ndarray:
        picture = to_chw(picture)
        if not isinstance(picture, np.ndarray) or picture.dtype == np.uint8:
            got = decode(picture, self.size, self.channels)
            if self.channels is None:  # the first item decides
                self.channels = 1 if got.grey else 3
                return self._pixels(picture)
            return got.pixels.copy()  # a dataset may give one buffer again and again
        if self.size and picture.shape[1:] != (self.size, self.size):
            raise DataError(
                f"data.size={self.size} is for PIL and uint8 pictures, the dataset gives {picture.dtype} {picture.shape}",
                hint="resize them in its transform",
            )
        return picture.astype(np.float32)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """The global generators set from a seed, and put back afterwards."""
    import torch

    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    try:
        random.seed(seed)
        np.random.seed(seed % 2**32)
        torch.random.default_generator.manual_seed(
            seed % 2**63
        )  # not torch.manual_seed, which also seeds other devices
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])


def from_datasets(
    given: Sequence[Any], size: int | None, channels: int | None
) -> tuple[Raw | dict[str, LiveData], list[str], list[str]]:
    """What to read into the store, or live data by part; the names of the classes; notices.

    Raises:
        DataError: items are not pairs of picture and label, or a label is not a whole number.
    """
    fixed = all(map(_probe, given))
    labels = [_labels(d) for d in given]
    top = max(int(y.max(initial=-1)) for y in labels) + 1
    classes = [str(c) for c in getattr(given[0], "classes", ())]
    if len(classes) < top:
        classes = [str(i) for i in range(top)]
    sizes = dict(zip(PARTS, map(len, given), strict=False)) if len(given) > 1 else {"all": len(given[0])}
    if fixed:
        pictures = (_item(d, i)[0] for d in given for i in range(len(d)))
        return Raw(classes, np.concatenate(labels), None, sizes, pictures), classes, []
    ends = np.cumsum([0, *sizes.values()])
    live = {
        p: LiveData(d, y, np.arange(len(y)) + start, size, channels)
        for p, d, y, start in zip(sizes, given, labels, ends, strict=False)
    }
    notices = ["the dataset's items are fetched anew for every batch: they are no fixed uint8 pictures"]
    sample = live[next(iter(live))].pictures(np.arange(min(PROBES, len(given[0]))))
    if sample.dtype != np.uint8 and (sample.min() < -0.01 or sample.max() > 1.01):
        notices.append(
            f"pictures run from {sample.min():.2f} to {sample.max():.2f}, expected 0 to 1: "
            "each net normalises its own input, so leave Normalize out of the dataset's transforms"
        )
    return live, classes, notices


def _probe(dataset: Any) -> bool:
    """Whether the items are fixed uint8 pictures: some of them are read twice."""
    if not len(dataset):
        raise DataError(f"the dataset {type(dataset).__name__} is empty")
    at = np.unique(np.linspace(0, len(dataset) - 1, PROBES).astype(int))
    first, second = ([_item(dataset, int(i))[0] for i in at] for _ in range(2))
    return all(map(_same_bytes, first, second))


def _same_bytes(a: Any, b: Any) -> bool:
    if isinstance(a, Image.Image) and isinstance(b, Image.Image):
        return a.tobytes() == b.tobytes()
    return isinstance(a, np.ndarray) and a.dtype == np.uint8 and np.array_equal(a, b)


def _item(dataset: Any, i: int) -> tuple[Any, Any]:
    item = dataset[i]
    if not isinstance(item, Sequence) or len(item) != 2:
        raise DataError(
            f"item {i} of {type(dataset).__name__} is {type(item).__name__}, expected a pair (picture, label)"
        )
    return copy.copy(to_chw(item[0])), item[1]  # a dataset may give one buffer again and again


def _labels(dataset: Any) -> np.ndarray:
    """The labels: ``dataset.targets`` where it agrees with some items, else those of all items."""
    targets = getattr(dataset, "targets", None)
    if targets is not None and len(targets) == len(dataset):
        found = np.asarray(targets)
        at = np.unique(np.linspace(0, len(dataset) - 1, PROBES).astype(int))
        if found.dtype.kind in "iu" and found.ndim == 1 and all(found[i] == np.asarray(dataset[int(i)][1]) for i in at):
            return to_labels(found)
    return to_labels(np.array([np.asarray(_item(dataset, i)[1])[()] for i in range(len(dataset))]))
