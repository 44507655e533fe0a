"""What a store of a teacher's answers depends on: whatever changes one of them changes the key."""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Sequence
from pathlib import Path
from types import CodeType, FunctionType
from typing import Any

import torch
from torch import Tensor, nn

from potstill.cache.codec import Layout
from potstill.cache.store import FORMAT
from potstill.data.views import Views
from potstill.taps import Tapped

PLAIN = (bool, int, float, str, type(None))
NOT_STATE = {"_version", *vars(nn.Module())}


def fingerprint(module: nn.Module) -> str:
    """sha256 in hex of a net: its weights and buffers, how it is put together, its settings and the code of its classes.

    Classes of torch itself are named, not read: another release of torch is the same net.
    """
    digest = hashlib.sha256()

    def add(*parts: object) -> None:
        digest.update("\0".join(map(str, parts)).encode() + b"\n")

    classes: dict[type, None] = {}
    for path, part in module.named_modules(remove_duplicate=False):
        classes[type(part)] = None
        add("module", path, type(part).__module__, type(part).__qualname__, settings(part))
    for cls in classes:
        if not cls.__module__.startswith("torch."):
            add("code", cls.__qualname__, code(cls))
    for kind, named in ("parameter", module.named_parameters()), ("buffer", module.named_buffers()):
        for name, t in named:
            add(kind, name, t.dtype, tuple(t.shape))
            digest.update(content(t))
    return digest.hexdigest()


def key(
    teacher: Tapped,
    layout: Layout,
    *,
    data: str,
    views: Views | None,
    cycle: int,
    precision: str,
    reduced: Sequence[str] = (),
) -> tuple[str, dict[str, Any]]:
    """The key of a store, 20 hexadecimal digits, and what it was made of, for its ``meta.json``.

    Args:
        teacher: the net with its normalisation, class order and spots.
        layout: how what it says is packed.
        data: the fingerprint of the data (``Splits.fingerprint``).
        views: the augmentation.
        cycle: views of each sample.
        precision: of the teacher's arithmetic: a bf16 teacher's answers do not serve an exact run.
        reduced: how losses reduce what the teacher says, where they do.
    """
    parts = {
        "teacher": fingerprint(teacher.net),
        "prepare": fingerprint(teacher.prepare) if teacher.prepare is not None else None,
        "order": None if teacher.order is None else hashlib.sha256(content(teacher.order)).hexdigest(),
        "data": data,
        "augment": repr(views),
        "cycle": cycle,
        "precision": precision,
        "layout": layout.to_json(),
        **({"reduced": list(reduced)} if reduced else {}),
    }
    written = json.dumps([FORMAT, parts], sort_keys=True)
    return hashlib.sha256(written.encode()).hexdigest()[:20], parts


def settings(part: object) -> dict[str, Any]:
    """The plain values that an object holds, by name."""
    return {k: v for k, v in sorted(vars(part).items()) if k not in NOT_STATE and _plain(v)}


def _plain(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return all(map(_plain, value))
    if isinstance(value, dict):
        return all(isinstance(k, PLAIN) and _plain(v) for k, v in value.items())
    return isinstance(value, PLAIN)


def code(cls: type) -> str:
    """The source of a class, or its bytecode where there is no source."""
    try:
        return inspect.getsource(cls)
    except (OSError, TypeError):
        return repr([_bytecode(f.__code__) for f in _functions(cls)])


def files(cls: type) -> str:
    """The files in which a class that is not ours and its bases stand, for they may call helpers there; else its :func:`code`."""
    names = {f.__code__.co_filename for base in cls.__mro__ if _foreign(base) for f in _functions(base)}
    try:
        return "\0".join(Path(name).read_text("utf-8") for name in sorted(names)) or code(cls)
    except (OSError, UnicodeDecodeError):  # as in a notebook
        return code(cls)


def _foreign(cls: type) -> bool:
    return cls.__module__.partition(".")[0] not in ("potstill", "torch", "builtins", "typing", "abc")


def _functions(cls: type) -> list[FunctionType]:
    """The functions of a class, without what decorates them."""
    plain = (getattr(f, "__func__", getattr(f, "fget", f)) for f in vars(cls).values())
    return [f for f in (inspect.unwrap(f) for f in plain if callable(f)) if inspect.isfunction(f)]


def _bytecode(made: CodeType) -> list[object]:
    inner = [_bytecode(k) if isinstance(k, CodeType) else k for k in made.co_consts]
    return [made.co_name, made.co_code.hex(), made.co_names, [k for k in inner if _plain(k)]]


def content(t: Tensor) -> bytes:
    """The bytes of a tensor, in the order of its indices whatever its memory format."""
    return t.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes() if t.numel() else b""
