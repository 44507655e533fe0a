"""The files of a store: their size, their checksums, what is said of them."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from potstill.errors import MachineError


def allocate(folder: Path, sizes: Mapping[str, int]) -> None:
    """Make files of so many bytes, all of them now: a full disk in the middle would end a process that writes to memory, without
    a word.

    Raises:
        MachineError: they do not fit the disk; the folder is deleted.
    """
    need, free = sum(sizes.values()), shutil.disk_usage(folder).free
    try:
        if need > free:
            raise OSError(f"it needs {need:,} bytes, {free:,} are free")
        for name, n in sizes.items():
            with open(folder / name, "w+b") as file:
                if hasattr(os, "posix_fallocate"):
                    os.posix_fallocate(file.fileno(), 0, n)
                else:
                    file.truncate(n)
    except OSError as error:
        shutil.rmtree(folder, ignore_errors=True)
        raise MachineError(
            f"the cache does not fit the disk of {folder.parent}: {error}",
            hint="fewer views, cache.dtype=int8 or topk, another cache.dir, or cache=false",
        ) from None


def weights_of(size: int) -> np.ndarray:
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
