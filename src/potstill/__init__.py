"""potstill distils big networks into small ones. Importing it is cheap: torch is loaded when something needs it.

>>> import potstill
>>> run = potstill.distill(teacher, student, "folder:photos", method="kd", epochs=100)  # doctest: +SKIP
>>> run.student  # doctest: +SKIP
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from potstill._version import __version__

if TYPE_CHECKING:
    from potstill.api import distill, load, resume, train
    from potstill.engine import Stage, fit
    from potstill.losses.base import Loss
    from potstill.methods.build import build
    from potstill.models.net import Net
    from potstill.models.preprocess import Preprocess
    from potstill.report import report
    from potstill.schemes import Link, Ramp, Scheme, offline, total
    from potstill.search.api import sweep
    from potstill.taps import Frozen, Tapped
    from potstill.types import Batch

_HOMES = {
    "api": ("distill", "load", "resume", "train"),
    "engine": ("Stage", "fit"),
    "losses.base": ("Loss",),
    "methods.build": ("build",),
    "models.net": ("Net",),
    "models.preprocess": ("Preprocess",),
    "report": ("report",),
    "schemes": ("Link", "Ramp", "Scheme", "offline", "total"),
    "search.api": ("sweep",),
    "taps": ("Frozen", "Tapped"),
    "types": ("Batch",),
}

__all__ = [
    "Batch",
    "Frozen",
    "Link",
    "Loss",
    "Net",
    "Preprocess",
    "Ramp",
    "Scheme",
    "Stage",
    "Tapped",
    "__version__",
    "build",
    "distill",
    "fit",
    "load",
    "offline",
    "report",
    "resume",
    "sweep",
    "total",
    "train",
]


_PARTS = ("compress", "data", "lightning", "losses", "methods", "metrics", "models", "schemes")


def __getattr__(name: str) -> Any:
    if name in _PARTS:
        return importlib.import_module(f"potstill.{name}")
    for home, names in _HOMES.items():
        if name in names:
            return getattr(importlib.import_module(f"potstill.{home}"), name)
    raise AttributeError(f"module 'potstill' has no attribute {name!r}")
