"""Records on disk, one a (sample, view): mapped into memory, filled bit by bit, every one with its own checksum."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock

from potstill.cache.files import allocate, checksum, read_meta, weights_of
from potstill.cache.parts import Parts, rows_a_part
from potstill.errors import ConfigError, DataError, MachineError
from potstill.files import write_json

FORMAT = 1
"""Grows when what is written changes; it is part of the key."""
CHUNK = 2**25
"""Bytes that are read at a time when a whole store is looked through."""
AGAIN = 30.0
"""Seconds after which one who only reads looks anew for what others have written, on disks that do not show it at once."""


class Store:
    """A folder of records: ``records.bin``, (views * N, size) bytes; ``sums.bin``, (views * N,) uint64, the checksum of each
    record and 0 where there is none yet; ``meta.json``, what they are.

    A record is written before its sum, so one that a kill or a power cut left half-written is not taken for one. When the last
    one is there, the store is finished: ``meta.json`` says so, in one step, and from then on nobody writes. Readers of a
    finished store take no lock.

    A store is divided into parts (:mod:`potstill.cache.parts`), each with one writer at a time: a training holds all of them or
    none, processes that fill a store together :meth:`claim` one after the other. Others meanwhile read what is there.

    Args:
        folder: of the store; made where it is missing.
        ids: of the N samples.
        views: M, the views of each sample.
        size: bytes of a record, a multiple of 8.
        meta: what the records are: kept, and held against what is kept.
        write: whether to fill it: all of it, if nobody else fills a part of it.
        about: what people should know of it, for ``potstill cache ls``; kept, and not held against anything.
        share: fill it part by part, as :meth:`claim` gives them.

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
        share: bool = False,
    ) -> None:
        self.folder, self.views, self.size = folder, views, size
        ids = np.asarray(ids, dtype=np.int64)
        self.places = np.full(int(ids.max(initial=-1)) + 1, -1)
        self.places[ids] = np.arange(len(ids))
        self.id_at, self.samples, self.weights = ids, len(ids), weights_of(size)
        mine = {"format": FORMAT, "samples": len(ids), "views": views, "size": size, **meta}
        found = read_meta(folder)
        if found is None and write:
            folder.mkdir(parents=True, exist_ok=True)
            with FileLock(folder / ".make.lock"):  # another may make the files at this moment
                found = read_meta(folder) or self._create(mine, about or {}, ids)
        if found is None:
            raise ConfigError(f"no cache in {folder}", hint="potstill cache ls")
        if other := [k for k in mine if found.get(k) != mine[k]]:
            raise ConfigError(
                f"the cache {folder} holds something else: its {', '.join(other)} differ", hint="potstill cache rm"
            )
        self.finished = bool(found["finished"])
        rows = views * len(ids)
        self.parts = Parts(folder, rows, found.get("part", rows))  # an older one has one writer at a time
        self._missing = 0
        self._map()
        if write and not share and not self.finished:
            self._take_all()

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
        """Whether this process fills the store, or a part of it."""
        return bool(self.parts.held)

    @property
    def left(self) -> int:
        """Records that are not there yet, whoever writes them."""
        return 0 if self.finished else len(self.sums) - int(np.count_nonzero(self.sums))

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
        if not good.all():
            if self.finished:
                raise self._damaged(rows[~good])
            if not self.writing and time.monotonic() - self._mapped > AGAIN:
                self._map()
                return self.read(rows)
        return records, good

    def write(self, rows: np.ndarray, records: np.ndarray) -> None:
        """Put records to their places; finishes the store with the last one. Leaves out those that others write."""
        held = self.parts.held
        if not (mine := (rows >= held.start) & (rows < held.stop)).all():
            rows, records = rows[mine], records[mine]
        if not len(rows):
            return
        new = int((np.unique(rows[self.sums[rows] == 0])).size)
        self.records[rows] = records
        self.sums[rows] = checksum(records, rows, self.weights)
        self._missing -= new
        if not self._missing and self.parts.whole:
            self._finish()

    def gaps(self, batch: int) -> Iterator[np.ndarray]:
        """The records that are not there and that this process may write, view by view, so many at a time."""
        held = self.parts.held
        for at in range(held.start, held.stop, CHUNK):
            missing = at + np.flatnonzero(self.sums[at : min(at + CHUNK, held.stop)] == 0)
            yield from (missing[i : i + batch] for i in range(0, len(missing), batch))

    def claim(self) -> bool:
        """Give back the part that is held, and hold another that has gaps and that nobody else fills; whether there is one.

        Where no part has gaps any more, the store is finished. So this is to be called until ``finished``: others may die and
        leave their parts as they are.
        """
        self.close()
        self.finished = self.finished or bool((read_meta(self.folder) or {}).get("finished"))
        self._map()  # what others wrote, also from other machines
        if self.finished:
            return False
        gaps = [part for part in range(len(self.parts)) if self._gaps_in(self.parts.rows_of(part))]
        for part in gaps:
            if self.parts.take(part):
                self._map()
                self._missing = self._gaps_in(self.parts.held)
                if self._missing:
                    return True
        self.parts.release()
        if gaps:
            return False
        self._take_all()
        return self.writing and self.claim()  # what was damaged is a gap now

    def close(self) -> None:
        """Write to the disk what is in memory, and let others write."""
        if self.writing:
            self._flush()
            self.parts.release()

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

    def _gaps_in(self, rows: range) -> int:
        return len(rows) - int(np.count_nonzero(self.sums[rows.start : rows.stop]))

    def _map(self) -> None:
        """Map the files into memory. On a network disk that is also how one learns what others have written."""
        mode: Any = "r+" if self.writing else "r"
        rows, self._mapped = self.parts.rows, time.monotonic()
        try:
            self.records = np.asarray(np.memmap(self.folder / "records.bin", np.uint8, mode, shape=(rows, self.size)))
            self.sums = np.asarray(np.memmap(self.folder / "sums.bin", np.uint64, mode, shape=(rows,)))
        except (OSError, ValueError) as error:
            self.parts.release()
            raise MachineError(
                f"the cache {self.folder} is damaged: {error}", hint=f"potstill cache rm {self.folder.name}"
            ) from None

    def _take_all(self) -> None:
        """Hold all of it, if nobody else holds a part; finishes it where nothing is missing."""
        if not self.parts.take_all():
            return
        if (read_meta(self.folder) or {}).get("finished"):  # meanwhile, by another process
            self.parts.release()
            self.finished = True
            return
        self._map()
        self._missing = self._gaps_in(self.parts.held)
        if not self._missing:
            self._finish()

    def _create(self, meta: dict[str, Any], about: dict[str, Any], ids: np.ndarray) -> dict[str, Any]:
        rows = self.views * self.samples
        allocate(self.folder, {"records.bin": rows * self.size, "sums.bin": rows * 8})
        np.save(self.folder / "ids.npy", ids)
        more = {"part": rows_a_part(rows), "about": about, "finished": False, "made": int(time.time())}
        write_json(self.folder / "meta.json", {**meta, **more})
        return {**meta, **more}

    def _flush(self) -> None:
        for array in (self.records, self.sums):
            if isinstance(array.base, np.memmap):
                array.base.flush()

    def _finish(self) -> None:
        """Of a store that is held as a whole, and has no gaps: look through it, and say that it is done."""
        wrong = self._wrong()  # a power cut may have kept the sum of a record and not the record
        self.sums[wrong], self._missing = 0, len(wrong)
        if len(wrong):
            return
        self._flush()
        meta = read_meta(self.folder) or {}
        digest = hashlib.sha256(self.sums.data).hexdigest()
        write_json(self.folder / "meta.json", {**meta, "finished": True, "sha256": digest})
        self.finished = True
        self.parts.release()

    def _damaged(self, rows: np.ndarray) -> DataError:
        view, place = divmod(int(rows[0]), self.samples)
        first = int(np.flatnonzero(self.places == place)[0])
        return DataError(
            f"the cache {self.folder} is damaged: view {view} of sample {first} is not what was written"
            + (f" (and {len(rows) - 1} more)" if len(rows) > 1 else ""),
            hint=f"potstill cache rm {self.folder.name}: it is made anew",
        )
