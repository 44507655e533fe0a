"""Packages that potstill does not require: imported where they are needed, and missed with a clear word."""

from __future__ import annotations

import importlib
import importlib.metadata
from typing import Any

from potstill.errors import MachineError, first_line


def optional(name: str, extra: str, *names: str, what: str = "this", where: str = "") -> Any:
    """The module of that name, of a package that the extra ``extra`` brings.

    Args:
        names: are loaded from it at once, as some libraries load lazily.
        what, where: needs it, and on which machines.

    Raises:
        MachineError: it is not installed, or it is and cannot be imported.
    """
    package = name.partition(".")[0]
    try:
        importlib.import_module(package)  # first: of a part alone the error would name the part
        module = importlib.import_module(name)
        for each in names:
            getattr(module, each)
    except Exception as e:  # a broken binary raises RuntimeError, OSError, AttributeError ...
        if isinstance(e, ModuleNotFoundError) and e.name == package:
            raise MachineError(
                f"{what} needs {package}{where}, which is not installed", hint=f'pip install "potstill[{extra}]"'
            ) from e
        raise MachineError(
            f"{package} is installed but cannot be imported: {type(e).__name__}: {first_line(e)}",
            why=f"installed: {', '.join(map(version, (package, 'torch')))}; a package built for another torch fails so",
            hint=f"install the {package} that belongs to this torch, from where torch came from",
        ) from e
    return module


def version(package: str) -> str:
    try:
        return f"{package} {importlib.metadata.version(package)}"
    except importlib.metadata.PackageNotFoundError:
        return f"{package} of unknown version"
