"""The memory of a process on a CPU: keep what was freed for the next step, instead of giving it back and asking again."""

from __future__ import annotations

import ctypes
import os
import platform

TRIM, MMAP = -1, -3
"""``M_TRIM_THRESHOLD`` and ``M_MMAP_THRESHOLD`` of ``mallopt(3)``."""
LARGEST = (1 << 30, 1 << 25)
"""Bytes from which an allocation has pages of its own. Older glibc refuses more than 32 MB."""
SETTINGS = ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "GLIBC_TUNABLES")
"""Variables by which a user says the same himself."""


def keep_freed() -> bool:
    """Let glibc keep freed memory in the process.

    By default it maps each large tensor anew and unmaps it, every step: the kernel must clear its pages each time. Where libc is
    not glibc, or the user's environment sets its thresholds, nothing happens.

    Returns:
        whether it was done.
    """
    if platform.libc_ver()[0] != "glibc" or any(name in os.environ for name in SETTINGS):
        return False
    libc = ctypes.CDLL(None)
    return any(libc.mallopt(MMAP, size) for size in LARGEST) and bool(libc.mallopt(TRIM, LARGEST[0]))
