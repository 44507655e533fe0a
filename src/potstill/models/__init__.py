"""Nets: the zoo, nets from elsewhere, their weights. No torch is imported until a name of this package is used."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from potstill.models.net import Net
    from potstill.models.preprocess import Preprocess
    from potstill.models.resolve import load_student, resolve, save_student
    from potstill.models.weights import load_weights, save_weights

__all__ = ["Net", "Preprocess", "load_student", "load_weights", "resolve", "save_student", "save_weights"]

_HOMES = {
    "Net": "net",
    "Preprocess": "preprocess",
    "load_student": "resolve",
    "save_student": "resolve",
    "load_weights": "weights",
    "save_weights": "weights",
}


def __getattr__(name: str) -> Any:
    if name == "resolve":  # its module has the same name, and can be called
        return importlib.import_module("potstill.models.resolve")
    if name in _HOMES:
        return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
