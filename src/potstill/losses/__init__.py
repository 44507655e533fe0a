"""The zoo of losses: one published method a file, one class a method.

Every file of this folder whose name has no leading underscore, but ``base``, holds exactly one class derived from
:class:`Loss`, and ``potstill.losses.KD`` finds it: the zoo is complete by construction. A class is imported when it is
asked for; its name is read from the source, so that listing the zoo needs no torch.
"""

import ast
import importlib
from functools import cache
from pathlib import Path
from typing import Any


@cache
def zoo() -> dict[str, str]:
    """The file's name of every loss by the name of its class: ``{"KD": "kd", "SoftCE": "soft_ce", ...}``."""
    files = sorted(Path(__file__).parent.glob("[!_]*.py"))
    return {
        node.name: file.stem
        for file in files
        for node in ast.parse(file.read_text(encoding="utf-8")).body
        if isinstance(node, ast.ClassDef) and any(isinstance(b, ast.Name) and b.id == "Loss" for b in node.bases)
    }


def __getattr__(name: str) -> Any:
    if name == "__all__":
        return __dir__()
    if not name.startswith("_") and name in (known := {"Loss": "base", **zoo()}):
        return getattr(importlib.import_module(f"{__name__}.{known[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return ["Loss", *zoo()]
