"""Who fills which part of a store: a lock a part, so that every record has one writer at a time."""

from __future__ import annotations

from pathlib import Path

from filelock import FileLock, Timeout

ROWS = 8192
"""Records of a part are a multiple of this. Then a part of either file begins and ends with a page of memory (up to 64 kB), and
two machines that share a folder never write to the same page."""
MOST = 128
"""Parts of a store, at the most."""


def rows_a_part(rows: int) -> int:
    """How many records a part of a new store of so many records has."""
    return max(1, -(-rows // (MOST * ROWS))) * ROWS


class Parts:
    """The parts of a store, of which this process holds none, one, or all.

    The locks are those of the operating system: those of a killed process are free.

    Args:
        folder: of the store.
        rows: its records.
        each: records of a part; the last one may be smaller.
    """

    def __init__(self, folder: Path, rows: int, each: int) -> None:
        self.rows, self.each = rows, each
        starts = range(0, rows, each)
        self._locks = [FileLock(folder / f".part-{i}.lock", thread_local=False) for i in range(len(starts))]
        self.held = range(0)
        """The records that this process may write."""

    def __len__(self) -> int:
        return len(self._locks)

    def rows_of(self, part: int) -> range:
        """The records of a part."""
        return range(part * self.each, min((part + 1) * self.each, self.rows))

    @property
    def whole(self) -> bool:
        """Whether all parts are held."""
        return len(self.held) == self.rows

    def take(self, part: int) -> bool:
        """Hold this part and no other, if nobody else holds it."""
        self.release()
        if free := self._locked(part):
            self.held = self.rows_of(part)
        return free

    def take_all(self) -> bool:
        """Hold all parts, if nobody else holds one; else none. All try them in the same order: one of several gets them."""
        self.release()
        if all(map(self._locked, range(len(self)))):
            self.held = range(self.rows)
            return True
        self.release()
        return False

    def release(self) -> None:
        """Let others have what is held."""
        self.held = range(0)
        for lock in self._locks:
            lock.release()

    def _locked(self, part: int) -> bool:
        try:
            self._locks[part].acquire(blocking=False)
        except Timeout:
            return False
        return True
