"""Records on disk, one a (sample, view): mapped into memory, filled bit by bit, every one with its own checksum."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout

from potstill.errors import ConfigError, DataError, MachineError
from potstill.files import write_json

FORMAT = 1
"""Grows when what is written changes; it is part of the key."""
CHUNK = 2**25
"""Bytes that are read at a time when a whole store is looked through."""


class Store:
    """A folder of records: ``records.bin``, (views * N, size) bytes; ``sums.bin``, (views * N,) uint64, the checksum of each
    record and 0 where there is none yet; ``meta.json``, what they are.

    A record is written before its sum, so one that a kill or a power cut left half-written is not taken for one. When the last
    one is there, the store is finished: ``meta.json`` says so, in one step, and from then on nobody writes. Readers of a
    finished store take no lock. One process writes at a time; others meanwhile read what is there.

    Args:
        folder: of the store; made where it is missing.
        ids: of the N samples.
        views: M, the views of each sample.
        size: bytes of a record, a multiple of 8.
        meta: what the records are: kept, and held against what is kept.
        write: whether to fill it, if nobody else does.
        about: what people should know of it, for ``potstill cache ls``; kept, and not held against anything.

    Raises:
        ConfigError: what lies there is something else.
        MachineError: the disk is too small, or the files have not the size that they should.
    """

    def __init__(
        self,
        folder: Path,
        ids: np.ndarray,
        views: int,
        size: int,
        meta: dict[str, Any],
        write: bool = True,
        about: dict[str, Any] | None = None,
    ) -> None:
        self.folder, self.views, self.size = folder, views, size
        ids = np.asarray(ids, dtype=np.int64)
        self.places = np.full(int(ids.max(initial=-1)) + 1, -1)
        self.places[ids] = np.arange(len(ids))
        self.id_at = ids
        self.samples, self._lock = len(ids), FileLock(folder / ".writer.lock")
        mine = {"format": FORMAT, "samples": len(ids), "views": views, "size": size, **meta}
        self.finished = bool((found := read_meta(folder)) and found["finished"])
        if write and not self.finished:
            self._take()
            while (found := read_meta(folder)) is None and not self.writing:  # another makes the files at this moment
                time.sleep(0.05)
                self._take()
            self.finished = bool(found and found["finished"])
        if found is None:
            if not self.writing:
                raise ConfigError(f"no cache in {folder}", hint="potstill cache ls")
            self._create({**mine, "about": about or {}}, ids)
        elif other := [k for k in mine if found.get(k) != mine[k]]:
            self._lock.release()
            raise ConfigError(
                f"the cache {folder} holds something else: its {', '.join(other)} differ", hint="potstill cache rm"
            )
        mode: Any = "r+" if self.writing else "r"
        rows = views * len(ids)
        try:
            self.records = np.asarray(np.memmap(folder / "records.bin", np.uint8, mode, shape=(rows, size)))
            self.sums = np.asarray(np.memmap(folder / "sums.bin", np.uint64, mode, shape=(rows,)))
        except (OSError, ValueError) as error:
            self._lock.release()
            raise MachineError(
                f"the cache {folder} is damaged: {error}", hint=f"potstill cache rm {folder.name}"
            ) from None
        self.weights = _weights(size)
        self.left = 0 if self.finished else rows - int(np.count_nonzero(self.sums))
        if not self.left:
            self._finish()  # a kill came between the last record and this

    @classmethod
    def at(cls, folder: Path) -> Store:
        """The store that lies in a folder, to be read.

        Raises:
            ConfigError: none lies there.
            MachineError: it is damaged.
        """
        meta = read_meta(folder)
        if meta is None:
            raise ConfigError(f"no cache in {folder}", hint="potstill cache ls")
        try:
            return cls(folder, np.load(folder / "ids.npy", allow_pickle=False), meta["views"], meta["size"], {}, False)
        except (OSError, ValueError, KeyError) as error:
            raise MachineError(f"the cache {folder} is damaged: {error}", hint="potstill cache rm") from None

    @property
    def writing(self) -> bool:
        """Whether this process fills the store."""
        return self._lock.is_locked

    def rows(self, ids: np.ndarray, views: np.ndarray) -> np.ndarray:
        """Where the records of these samples in these views lie, (B,).

        Raises:
            DataError: a sample or a view that the store has no place for.
        """
        inside = (ids >= 0) & (ids < len(self.places))
        at = np.where(inside, self.places[np.where(inside, ids, 0)], -1)
        if (at < 0).any():
            raise DataError(f"the cache has no sample {ids[at < 0][0]}: it was made for other data")
        if len(views) and not 0 <= views.min() <= views.max() < self.views:
            raise DataError(
                f"view {views.max()} of a sample, the cache has {self.views}", hint=f"Stream(..., cycle={self.views})"
            )
        return views * self.samples + at

    def filled(self, rows: np.ndarray) -> np.ndarray:
        """Which of these records are there, (B,), bool."""
        return self.sums[rows] != 0

    def read(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The records, (B, size), uint8, and which of them are there and whole, (B,).

        Raises:
            DataError: a record of a finished store is damaged. In an unfinished one it counts as missing, and is made anew.
        """
        kept, records = self.sums[rows], self.records[rows]
        good = checksum(records, rows, self.weights) == kept
        if self.finished and not good.all():
            raise self._damaged(rows[~good])
        return records, good

    def write(self, rows: np.ndarray, records: np.ndarray) -> None:
        """Put records to their places; finishes the store with the last one. Does nothing where another process writes."""
        if not self.writing or not len(rows):
            return
        new = int((np.unique(rows[self.sums[rows] == 0])).size)
        self.records[rows] = records
        self.sums[rows] = checksum(records, rows, self.weights)
        self.left -= new
        if not self.left:
            self._finish()

    def gaps(self, batch: int) -> Iterator[np.ndarray]:
        """The records that are not there, view by view, so many at a time."""
        for at in range(0, len(self.sums), CHUNK):
            missing = at + np.flatnonzero(self.sums[at : at + CHUNK] == 0)
            yield from (missing[i : i + batch] for i in range(0, len(missing), batch))

    def close(self) -> None:
        """Write to the disk what is in memory, and let others write."""
        if self.writing:
            self._flush()
            self._lock.release()

    def verify(self) -> int:
        """Read all; how many records are there and whole.

        Raises:
            DataError: some are damaged: says which.
        """
        damaged = self._wrong()
        meta = read_meta(self.folder) or {}
        if len(damaged):
            raise self._damaged(damaged)
        if self.finished and hashlib.sha256(self.sums.data).hexdigest() != meta.get("sha256"):
            raise DataError(f"the checksums of the cache {self.folder} are damaged", hint="potstill cache rm")
        return len(self.sums) - self.left

    def _wrong(self) -> np.ndarray:
        """The records that are there and not whole; all are read."""
        step = max(1, CHUNK // self.size)
        bad = [np.empty(0, np.int64)]
        for at in range(0, len(self.sums), step):
            rows = np.arange(at, min(at + step, len(self.sums)))
            rows = rows[self.filled(rows)]
            bad.append(rows[checksum(self.records[rows], rows, self.weights) != self.sums[rows]])
        return np.concatenate(bad)

    def _take(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        try:
            self._lock.acquire(blocking=False)
        except Timeout:
            return

    def _create(self, meta: dict[str, Any], ids: np.ndarray) -> None:
        rows = self.views * self.samples
        need, free = rows * (self.size + 8), shutil.disk_usage(self.folder).free
        try:
            if need > free:
                raise OSError(f"it needs {need:,} bytes, {free:,} are free")
            for name, n in (("records.bin", rows * self.size), ("sums.bin", rows * 8)):
                with open(self.folder / name, "w+b") as file:
                    # all of it now: a full disk in the middle would end a process that writes to memory, without a word
                    if hasattr(os, "posix_fallocate"):
                        os.posix_fallocate(file.fileno(), 0, n)
                    else:
                        file.truncate(n)
        except OSError as error:
            self._lock.release()
            shutil.rmtree(self.folder, ignore_errors=True)
            raise MachineError(
                f"the cache does not fit the disk of {self.folder.parent}: {error}",
                hint="fewer views, cache.dtype=int8 or topk, another cache.dir, or cache=false",
            ) from None
        np.save(self.folder / "ids.npy", ids)
        write_json(self.folder / "meta.json", {**meta, "finished": False, "made": int(time.time())})

    def _flush(self) -> None:
        for array in (self.records, self.sums):
            if isinstance(array.base, np.memmap):
                array.base.flush()

    def _finish(self) -> None:
        if self.writing:
            wrong = self._wrong()  # a power cut may have kept the sum of a record and not the record
            self.sums[wrong], self.left = 0, len(wrong)
            if self.left:
                return
            self._flush()
            meta = read_meta(self.folder) or {}
            digest = hashlib.sha256(self.sums.data).hexdigest()
            write_json(self.folder / "meta.json", {**meta, "finished": True, "sha256": digest})
            self.finished = True
            self._lock.release()

    def _damaged(self, rows: np.ndarray) -> DataError:
        view, place = divmod(int(rows[0]), self.samples)
        first = int(np.flatnonzero(self.places == place)[0])
        return DataError(
            f"the cache {self.folder} is damaged: view {view} of sample {first} is not what was written"
            + (f" (and {len(rows) - 1} more)" if len(rows) > 1 else ""),
            hint=f"potstill cache rm {self.folder.name}: it is made anew",
        )


def _weights(size: int) -> np.ndarray:
    """An odd multiplier for each word of a record."""
    i = np.arange(1, size // 8 + 1, dtype=np.uint64)
    return (i * np.uint64(0x9E3779B97F4A7C15)) | np.uint64(1)


def checksum(records: np.ndarray, rows: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """A sum of each record, (B,), uint64, never 0: its words times odd numbers, so that no change of one word is missed, and
    its place, so that a record in the wrong place is noticed."""
    words = np.ascontiguousarray(records).view("<u8")
    h = (words * weights).sum(1, dtype=np.uint64) + (rows.astype(np.uint64) + np.uint64(1)) * weights[0]
    h ^= h >> np.uint64(29)
    h *= np.uint64(0xBF58476D1CE4E5B9)
    h ^= h >> np.uint64(32)
    h[h == 0] = 1
    return np.asarray(h)


def read_meta(folder: Path) -> dict[str, Any] | None:
    """What a store's ``meta.json`` says; None where there is none.

    Raises:
        MachineError: it cannot be understood.
    """
    try:
        meta = json.loads((folder / "meta.json").read_text("utf-8"))
        return {**meta, "finished": bool(meta["finished"])}
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError, UnicodeDecodeError) as error:
        raise MachineError(
            f"{folder / 'meta.json'} is damaged: {error}", hint=f"potstill cache rm {folder.name}"
        ) from None
