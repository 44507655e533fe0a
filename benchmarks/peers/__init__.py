"""Steps of other toolkits, run from a checkout that the user gives; nothing of theirs is here.

Each peer is a module with ``METHODS`` (ours -> theirs) and ``step(path, method, batch, pair)``, which gives a function that does
one training step as that toolkit's own loop does it.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType


def peer(name: str) -> ModuleType:
    """The adapter of a peer, by name."""
    return importlib.import_module(f"benchmarks.peers.{name}")


def on_path(path: Path) -> None:
    """Make a checkout importable, before all else: its packages have names as common as ``models``."""
    if not path.is_dir():
        raise SystemExit(f"no checkout at {path}")
    if str(path) not in sys.path:
        sys.path.insert(0, str(path))


@contextlib.contextmanager
def silent() -> Iterator[None]:
    """What a peer's loop prints at each call is not wanted, but its time is."""
    with open(os.devnull, "w", encoding="utf-8") as nowhere, contextlib.redirect_stdout(nowhere):
        yield
