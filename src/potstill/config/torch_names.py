"""Optimizers and learning-rate schedulers of the torch that is installed, read from its source: no import, no wait."""

from __future__ import annotations

import importlib.util
import re
from functools import cache
from pathlib import Path

EXPORT = re.compile(r"^from torch\.optim\.(\w+) import (\w+) as \2$", re.MULTILINE)
SCHEDULER = re.compile(r"^class ([A-Z]\w+)\(LRScheduler\):", re.MULTILINE)
UNFIT = {
    "Optimizer",
    "LBFGS",
    "SparseAdam",
    "LambdaLR",
    "MultiplicativeLR",
    "SequentialLR",
    "ChainedScheduler",
    "ReduceLROnPlateau",
}
"""The base class; what needs a closure, sparse gradients, a function, other schedulers or a measure."""


@cache
def optimizers() -> dict[str, str]:
    """``{"SGD": "torch.optim.sgd:SGD", ...}``; empty where torch or its source is not to be found."""
    source = _read("optim/__init__.py")
    return {name: f"torch.optim.{module}:{name}" for module, name in EXPORT.findall(source) if name not in UNFIT}


@cache
def schedulers() -> dict[str, str]:
    """``{"StepLR": "torch.optim.lr_scheduler:StepLR", ...}``; empty where torch or its source is not to be found."""
    return {
        name: f"torch.optim.lr_scheduler:{name}"
        for name in SCHEDULER.findall(_read("optim/lr_scheduler.py"))
        if name not in UNFIT
    }


def exact(name: str, names: dict[str, str]) -> str | None:
    """``"adamw"`` as torch writes it: ``"AdamW"``; None where there is no such class."""
    return next((n for n in names if n.lower() == name.lower()), None)


def _read(file: str) -> str:
    spec = importlib.util.find_spec("torch")
    path = Path(spec.origin).parent / file if spec and spec.origin else None
    return path.read_text(encoding="utf-8", errors="replace") if path and path.is_file() else ""
