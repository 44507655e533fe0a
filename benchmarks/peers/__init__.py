"""Steps of other toolkits, run from a checkout that the user gives; nothing of theirs is here.

Each peer is a module with ``METHODS`` (ours -> theirs) and ``step(path, method, batch, pair, device, times)``, which gives a
function that does so many training steps as that toolkit's own loop does them on that batch of host memory, or says what is
missing for it.
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
    known = sorted(p.stem for p in Path(__file__).parent.glob("[a-z]*.py"))
    if name not in known:
        raise SystemExit(f"--peer {name}: there are {', '.join(known)}")
    return importlib.import_module(f"benchmarks.peers.{name}")


def on_path(path: Path | None) -> None:
    """Make a checkout importable, before all else: its packages have names as common as ``models``."""
    if path is None or not path.is_dir():
        raise SystemExit(f"no checkout at {path}: --peer NAME=PATH")
    if str(path) not in sys.path:
        sys.path.insert(0, str(path))


@contextlib.contextmanager
def silent() -> Iterator[None]:
    """What a peer's loop prints at each call is not wanted, but its time is."""
    with open(os.devnull, "w", encoding="utf-8") as nowhere, contextlib.redirect_stdout(nowhere):
        yield
