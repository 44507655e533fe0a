"""Where nets come from: the zoo and the user's own code. (Libraries: ``hubs.py``.)"""

from __future__ import annotations

import importlib
import inspect
import sys
import traceback
import types
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import nn

from potstill.errors import ModelError, PotstillError, did_you_mean, first_line
from potstill.models.catalog import find
from potstill.models.net import Facts, Net
from potstill.models.spec import SOURCES, Spec
from potstill.models.weights import existing_file


def called(factory: Callable[..., Any], kwargs: Mapping[str, Any], facts: Facts, what: str) -> Net:
    """Call a factory with ``kwargs``, and with those of ``facts`` that its signature names and ``kwargs`` do not give.

    Raises:
        ModelError: it takes other arguments, it fails, or it gives no ``nn.Module``.
    """
    signature = inspect.signature(factory)
    known = {k: v for k, v in facts.items() if v is not None and k not in kwargs}
    passed = {**kwargs, **{k: v for k, v in known.items() if k in signature.parameters}}
    try:
        signature.bind(**passed)
    except TypeError as e:
        wrong = next((k for k in passed if k not in signature.parameters), "")
        raise ModelError(f"{what} takes {signature}: {e}.{did_you_mean(wrong, signature.parameters)}") from e
    try:
        module = factory(**passed)
    except PotstillError:
        raise
    except Exception as e:
        raise ModelError(f"{what} could not be built: {type(e).__name__}: {first_line(e)}") from e
    if not isinstance(module, nn.Module):
        raise ModelError(f"{what} must give a torch.nn.Module, got {type(module).__name__}")
    takes_any = any(p.kind is p.VAR_KEYWORD for p in signature.parameters.values())
    notices = [
        f"{what}{signature} does not name {k}, so it was not passed; if it takes it, write {what}({k}={v})"
        for k, v in known.items()
        if takes_any and k not in passed
    ]
    return Net(module, what, passed, notices=notices)


def zoo(spec: Spec, facts: Facts) -> Net:
    """A net of the zoo, by its own name from now on."""
    name, entry = find(spec.name)
    module, _, factory = entry.target.partition(":")
    return called(getattr(importlib.import_module(module), factory), spec.kwargs, facts, f"zoo:{name}")


def user_code(spec: Spec, facts: Facts) -> Net:
    """A class, a function or a ready module in a file or an importable module. This runs that code.

    Raises:
        ModelError: there is no such file, module or name, or its code fails.
    """
    try:
        with neighbours(spec):
            found: Any = run_file(spec.place) if spec.source == "file" else importlib.import_module(spec.place)
            for part in spec.name.split("."):
                if not hasattr(found, part):
                    near = did_you_mean(part, [n for n in vars(found) if not n.startswith("_")])
                    raise ModelError(f"{spec.place} has no {part!r}.{near}")
                found = getattr(found, part)
            if isinstance(found, nn.Module) and not spec.kwargs:
                return Net(found, spec.text)
            if not callable(found) or isinstance(found, nn.Module):
                raise ModelError(
                    f"{spec.text} is a {type(found).__name__}, expected a class or a function that gives a net"
                )
            return called(found, spec.kwargs, facts, spec.text)
    except PotstillError:
        raise
    except Exception as e:
        if isinstance(e, ModuleNotFoundError) and spec.source == "module" and e.name and spec.place.startswith(e.name):
            near = did_you_mean(spec.place, SOURCES)
            raise ModelError(f"there is no module {e.name!r} to take {spec.text} from.{near}") from e
        lines = [
            f.lineno for f in traceback.extract_tb(e.__traceback__) if Path(f.filename).name == Path(spec.place).name
        ]
        line = e.lineno if isinstance(e, SyntaxError) else lines[-1] if lines else None
        raise ModelError(
            f"importing it failed: {type(e).__name__}: {first_line(e)}",
            where=f"{spec.place}:{line}" if line else spec.place,
        ) from e


@contextmanager
def neighbours(spec: Spec) -> Iterator[None]:
    """Let a file import the files beside it, as a script can; and find modules of the working folder, after installed ones."""
    of_file = spec.source == "file"
    entry = str((Path(spec.place).expanduser().parent if of_file else Path.cwd()).resolve())
    sys.path.insert(0 if of_file else len(sys.path), entry)
    try:
        yield
    finally:
        if entry in sys.path:
            sys.path.remove(entry)


def run_file(place: str) -> types.ModuleType:
    """Run a file as a module. Always from its source: a cached one may be older than an edit within the same second."""
    path = existing_file(place).resolve()
    module = types.ModuleType(f"potstill_user_{path.stem}")
    module.__file__ = str(path)
    sys.modules[module.__name__] = module  # dataclasses and pickle look there
    exec(compile(path.read_bytes(), str(path), "exec"), module.__dict__)
    return module
