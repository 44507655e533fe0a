"""Where stores stand: looking through them and throwing them away."""

from __future__ import annotations

import os
import shutil
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from potstill.cache.files import read_meta
from potstill.cache.store import Store
from potstill.data.store import cache_root
from potstill.errors import ConfigError, MachineError, did_you_mean

EXAMS = "exams"


def size(n: float) -> str:
    """104 -> ``104 B``; 18720000 -> ``18.7 MB``."""
    for unit in ("B", "kB", "MB", "GB"):
        if n < 1000:
            return f"{n:.3g} {unit}"
        n /= 1000
    return f"{n:.3g} TB"


class Shelf:
    """All stores of a user.

    Args:
        folder: by default ``$POTSTILL_CACHE``, see ``data.store.cache_root``.
    """

    def __init__(self, folder: str | os.PathLike[str] | None = None) -> None:
        self.root = cache_root(folder).parent / "answers"
        self.exams = self.root.with_name(EXAMS)
        """What teachers said of validation and test pictures: small, and shared by all stores of a teacher."""

    def names(self) -> list[str]:
        return sorted(p.parent.name for p in self.root.glob("*/meta.json"))

    def find(self, name: str) -> Path:
        """The folder of a store, by its name or the beginning of it.

        Raises:
            ConfigError: there is none, or several.
        """
        names = self.names()
        found = [n for n in names if n == name] or [n for n in names if name and n.startswith(name)]
        if len(found) != 1:
            what = (
                f"{len(found)} caches begin with {name!r}"
                if found
                else f"no cache {name!r}.{did_you_mean(name, names)}"
            )
            raise ConfigError(what, hint="potstill cache ls")
        return self.root / found[0]

    def exam_bytes(self) -> int:
        """Bytes of what is kept of validation and test pictures."""
        return sum(p.stat().st_size for p in self.exams.glob("*.safetensors"))

    def rows(self) -> list[dict[str, Any]]:
        """One a store: name, teacher, spots, views, samples, bytes, the share that is there."""
        rows = []
        for name in self.names():
            store = Store.at(self.root / name)
            meta = read_meta(self.root / name) or {}
            packed = {spot: f["kind"] for spot, f in meta.get("layout", {}).items()}
            rows.append(
                {
                    "name": name,
                    "teacher": meta.get("about", {}).get("teacher", ""),
                    "losses": meta.get("about", {}).get("losses", []),
                    "spots": packed,
                    "views": store.views,
                    "samples": store.samples,
                    "bytes": store.records.nbytes + store.sums.nbytes,
                    "filled": 1 - store.left / max(len(store.sums), 1),
                    "finished": store.finished,
                }
            )
        return rows

    def remove(self, name: str) -> int:
        """Delete a store, or with the name ``exams`` all that is kept of validation and test pictures; the bytes that were freed.

        Raises:
            MachineError: a process writes to it.
        """
        if name == EXAMS and self.exams.exists():
            freed = self.exam_bytes()
            shutil.rmtree(self.exams)
            return freed
        folder = self.find(name)
        try:
            with ExitStack() as stack:
                for lock in folder.glob(".*.lock"):
                    stack.enter_context(FileLock(lock, timeout=0))
                freed = sum(p.stat().st_size for p in folder.iterdir())
                shutil.rmtree(folder)
        except Timeout:
            raise MachineError(f"a run writes to the cache {folder.name} at this moment", hint="wait for it") from None
        return freed
