"""The memory of a process on a CPU: what was freed is kept for the next step, or given back at once."""

from __future__ import annotations

import ctypes
import os
import platform
from typing import Any

TRIM, MMAP = -1, -3
"""``M_TRIM_THRESHOLD`` and ``M_MMAP_THRESHOLD`` of ``mallopt(3)``."""
LARGEST = (1 << 30, 1 << 25)
"""Bytes from which an allocation has pages of its own. Older glibc refuses more than 32 MB."""
OWN = 1 << 20
"""Bytes from which a tensor has pages of its own where memory is short."""
SETTINGS = ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "GLIBC_TUNABLES")
"""Variables by which a user says the same himself."""


def keep_freed() -> bool:
    """Let glibc keep freed memory in the process.

    By default it maps each large tensor anew and unmaps it, every step: the kernel must clear its pages each time. Where libc is
    not glibc, or the user's environment sets its thresholds, nothing happens.

    Returns:
        whether it was done.
    """
    libc = _glibc()
    return libc is not None and any(libc.mallopt(MMAP, n) for n in LARGEST) and bool(libc.mallopt(TRIM, LARGEST[0]))


def give_back() -> bool:
    """Let glibc give each large tensor back when it is freed, for who is short of memory.

    By default it soon keeps tensors of some MB on its heap, which gaps make nearly twice as large as what it holds: the memory
    that activation checkpointing frees would not be seen.

    Returns:
        whether it was done.
    """
    libc = _glibc()
    return libc is not None and bool(libc.mallopt(MMAP, OWN))


def _glibc() -> Any:
    if platform.libc_ver()[0] != "glibc" or any(name in os.environ for name in SETTINGS):
        return None
    return ctypes.CDLL(None)
