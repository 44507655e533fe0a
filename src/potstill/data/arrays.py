"""What data are once they are loaded: pictures, labels and ids of a split; the three splits of a task. No torch."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np

from potstill.errors import DataError


class Data(ABC):
    """Pictures of one shape, with labels and ids.

    Attributes:
        labels: (N,), int64; -1 where there is none.
        ids: (N,), int64; the place of each picture in its source, the same in every split and every run.
        rows: (N,), int64; where each picture lies in what holds the pictures.
        shape: (C, H, W).
        content: sha256 in hex of what holds the pictures.
    """

    labels: np.ndarray
    ids: np.ndarray
    rows: np.ndarray
    names: Sequence[str] | None
    shape: tuple[int, ...]
    content: str

    def __len__(self) -> int:
        return len(self.rows)

    def subset(self, which: np.ndarray | Sequence[int]) -> Self:
        """Some of the pictures, by a mask or by places; no picture is copied."""
        at = np.asarray(which)
        at = np.flatnonzero(at) if at.dtype == bool else at.astype(np.int64)
        part = self._copy()
        part.labels, part.ids, part.rows = self.labels[at], self.ids[at], self.rows[at]
        return part

    def _copy(self) -> Self:
        part = object.__new__(type(self))
        part.__dict__ |= self.__dict__
        return part

    def labelled(self) -> Self:
        """The pictures that have a label."""
        return self.subset(self.labels >= 0)

    def relabelled(self, labels: np.ndarray) -> Self:
        """The same pictures with other labels."""
        part = self._copy()
        part.labels = to_labels(labels)
        return part

    def name(self, i: int) -> str:
        """What to call picture ``i`` in a message: its file, or its id."""
        return self.names[self.rows[i]] if self.names is not None else f"#{self.ids[i]}"

    @abstractmethod
    def pictures(self, at: np.ndarray | Sequence[int], seed: int = 0) -> np.ndarray:
        """The pictures at these places, (B, C, H, W): uint8, or float32 in [0, 1]. ``seed`` is for data that draw at random."""


class ArrayData(Data):
    """Pictures in an array, of which nothing is copied: usually a file that is mapped into memory.

    Args:
        pictures: (M, C, H, W), uint8.
        labels: (N,), whole numbers, -1 for none; all -1 when left out.
        ids: (N,); 0, 1, ... when left out.
        rows: (N,), the rows of ``pictures`` that belong to this split; all when left out.
        names: of the M pictures, for messages.
        content: sha256 of the M pictures, computed when left out and asked for.

    Raises:
        DataError: pictures or labels of a wrong type or number.
    """

    def __init__(
        self,
        pictures: np.ndarray,
        labels: np.ndarray | Sequence[int] | None = None,
        ids: np.ndarray | None = None,
        *,
        rows: np.ndarray | None = None,
        names: Sequence[str] | None = None,
        content: str = "",
    ) -> None:
        if pictures.dtype != np.uint8 or pictures.ndim != 4:
            raise DataError(f"pictures must be uint8 of shape (N, C, H, W), got {pictures.dtype} {pictures.shape}")
        self.store = np.asarray(pictures)  # a plain view of a memory map: indexing it is faster
        self.rows = np.arange(len(pictures)) if rows is None else np.asarray(rows, dtype=np.int64)
        self.labels = np.full(len(self), -1) if labels is None else to_labels(labels)
        self.ids = np.arange(len(self)) if ids is None else np.asarray(ids, dtype=np.int64)
        self.names, self.shape = names, pictures.shape[1:]
        if not len(self.rows) == len(self.labels) == len(self.ids):
            raise DataError(
                f"{len(self.rows)} pictures, {len(self.labels)} labels and {len(self.ids)} ids: not as many of each"
            )
        if content:
            self.content = content

    @cached_property
    def content(self) -> str:  # type: ignore[override]
        return hashlib.sha256(np.ascontiguousarray(self.store).data).hexdigest()

    def __getstate__(self) -> dict[str, Any]:
        """A file that is mapped into memory goes to another process by its name."""
        file = self.store.base.filename if isinstance(self.store.base, np.memmap) else None
        return self.__dict__ | {"store": Path(file)} if file else self.__dict__

    def __setstate__(self, state: dict[str, Any]) -> None:
        if isinstance(file := state["store"], Path):
            state = state | {"store": np.asarray(np.load(file, mmap_mode="r", allow_pickle=False))}
        self.__dict__ |= state

    @property
    def images(self) -> np.ndarray:
        """The pictures of this split, (N, C, H, W), uint8: a view where its rows are neighbours, else a copy."""
        if len(self) and np.array_equal(self.rows, np.arange(self.rows[0], self.rows[0] + len(self))):
            return self.store[self.rows[0] : self.rows[0] + len(self)]
        return self.store[self.rows]

    def pictures(self, at: np.ndarray | Sequence[int], seed: int = 0) -> np.ndarray:
        return self.store[self.rows[at]]


@dataclass
class Splits:
    """The data of a task.

    Attributes:
        train, val, test: choose on ``val``, report on ``test``. Where the source has no test pictures ``test`` is ``val``, and a
            notice says so.
        classes: their names, in the order of the labels.
        fingerprint: sha256 in hex of the pictures, the labels, the classes and who is in which split.
        source: what the user asked for.
        split: how it was split, in words.
        notices: what a user should know: what was skipped, converted, small or doubtful.
        num_samples: ids of training pictures are below this; the size of a memory that is indexed by id.
        all_labels: (num_samples,), int64, the label by id; -1 for pictures without a label and for those not trained on.
    """

    train: Data
    val: Data
    test: Data
    classes: list[str]
    source: str = "arrays"
    split: str = "as given"
    notices: list[str] = field(default_factory=list)
    num_samples: int = 0

    def __post_init__(self) -> None:
        self.num_samples = max(self.num_samples, int(self.train.ids.max(initial=-1)) + 1)

    @property
    def shape(self) -> tuple[int, ...]:
        """(C, H, W)."""
        return self.train.shape

    @cached_property
    def all_labels(self) -> np.ndarray:
        labels = np.full(self.num_samples, -1)
        labels[self.train.ids] = self.train.labels
        return labels

    @cached_property
    def fingerprint(self) -> str:
        digest = hashlib.sha256("\0".join(self.classes).encode("utf-8", "surrogateescape"))
        for part in (self.train, self.val, self.test):
            digest.update(part.content.encode())
            digest.update(np.stack((part.ids, part.labels)).astype("<i8").tobytes())
        return digest.hexdigest()

    @property
    def mean(self) -> list[float]:
        """Of each channel over the training pictures, in [0, 1]."""
        return self._moments[0]

    @property
    def std(self) -> list[float]:
        """Of each channel over all pixels of the training pictures, in [0, 1]."""
        return self._moments[1]

    @cached_property
    def _moments(self) -> tuple[list[float], list[float]]:
        """Exact up to 2^30 values; of larger data, as many evenly spaced pictures as make up that number."""
        n = len(self.train)
        step = max(1, -(-n * int(np.prod(self.shape)) // 2**30))
        at, total, square, count = np.arange(0, n, step), 0.0, 0.0, 0
        for chunk in np.array_split(at, max(1, len(at) // 512)):
            x = self.train.pictures(chunk)
            x = x.astype(np.float32) / 255 if x.dtype == np.uint8 else x
            total += x.sum((0, 2, 3), dtype=np.float64)
            square += np.square(x).sum((0, 2, 3), dtype=np.float64)
            count += x[:, 0].size
        mean = np.asarray(total) / count
        return mean.tolist(), np.sqrt(np.maximum(square / count - mean**2, 0)).tolist()


def to_labels(
    values: np.ndarray | Sequence[int], classes: int | None = None, names: Sequence[str] | None = None
) -> np.ndarray:
    """Labels as int64, checked.

    Args:
        values: one whole number a picture; -1 for none.
        classes: their number, where it is known.
        names: of the pictures, for the message.

    Raises:
        DataError: a label is not a whole number or not a class, with the first such picture.
    """
    labels = np.asarray(values)
    if labels.ndim != 1:
        raise DataError(f"labels must be one whole number a picture, shape (N,), got shape {labels.shape}")
    wrong = (
        np.arange(len(labels))
        if labels.dtype.kind not in "iu"
        else np.flatnonzero((labels < -1) | (labels >= (classes or 2**31)))
    )
    if len(wrong):
        first, known = wrong[0], f"0..{classes - 1}" if classes else "0, 1, 2 ..."
        which = names[first] if names is not None else f"picture {first}"
        raise DataError(
            f"label {labels[first].item()!r} of {which} is not a class: expected a whole number of {known}, or -1 for no label"
            + (f" (and {len(wrong) - 1} more such labels)" if len(wrong) > 1 else ""),
            hint="count the classes from 0, as whole numbers",
        )
    return labels.astype(np.int64)
