"""Weights on disk: read without running code and only where they fit, written whole or not at all."""

from __future__ import annotations

import argparse
import hashlib
import pickle
import re
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from potstill.errors import MachineError, ModelError, RefusedError, did_you_mean
from potstill.files import write_atomically

HOLDERS = (
    *(
        "state_dict",
        "model_state_dict",
        "model_state",
        "model",
        "net",
        "network",
        "student",
        "module",
        "weights",
        "params",
    ),
    *("state_dict_ema", "model_ema", "ema_state_dict", "ema", "params_ema"),
)
"""Keys under which training programs keep the weights, the plain ones before moving averages."""

PREFIXES = ("module.", "model.", "student.", "net.", "ema_model.")
"""What wrappers (DDP, Lightning ...) put in front of a net's names."""

HEADER_LIMIT = 100 << 20
"""Longest header of a safetensors file, in bytes: the limit of the format's own library."""

_SCALAR: Any = np._core.multiarray.scalar if hasattr(np, "_core") else np.core.multiarray.scalar  # type: ignore[attr-defined]
HARMLESS: list[Any] = [
    argparse.Namespace,
    np.dtype,
    *(type(np.dtype(t)) for t in (np.float64, np.float32, np.int64)),
    (_SCALAR, "numpy.core.multiarray.scalar"),
    (_SCALAR, "numpy._core.multiarray.scalar"),
]
"""Bags of values that the field's programs save beside the weights: their options and the best accuracy."""


def sha256(path: Path) -> str:
    """Hash of a file, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn what the system says when it cannot read into a :class:`MachineError`."""
    try:
        yield
    except OSError as e:
        raise MachineError(f"cannot read {path}: {e.strerror or e}", hint="check its permissions and its disk") from e


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn what the system says when it cannot write into a :class:`MachineError`."""
    try:
        yield
    except OSError as e:
        raise MachineError(f"cannot write {path}: {e.strerror or e}", hint="free some space, or write elsewhere") from e


def existing_file(path: str | Path) -> Path:
    """``path`` as a file that is there.

    Raises:
        ModelError: there is none; the nearest name beside it is given.
    """
    path = Path(path).expanduser()
    if path.is_dir():
        raise ModelError(f"{path} is a folder, expected a file")
    if not path.is_file():
        beside = [str(p) for p in path.parent.iterdir()] if path.parent.is_dir() else []
        missing = f"no file {path}" if path.parent.is_dir() else f"no file {path}: there is no folder {path.parent}"
        raise ModelError(
            f"{missing}.{did_you_mean(str(path), beside)}",
            hint="check the path; nothing is downloaded for a path",
        )
    return path


def damaged(path: Path, why: str) -> ModelError:
    return ModelError(
        f"{path} is damaged: {why} ({path.stat().st_size:,} bytes, sha256 {sha256(path)[:16]}...)",
        hint="copy or download it again",
    )


def read(path: str | Path) -> Any:
    """What a safetensors or torch file holds, on the CPU. No code of the file is run.

    Raises:
        ModelError: missing, empty, damaged, or no such file at all.
        RefusedError: it holds Python objects whose loading would run code.
    """
    path = existing_file(path)
    with reading(path), open(path, "rb") as file:
        head = file.read(512)
    text = head.lstrip().lower()
    if not head:
        raise ModelError(f"{path} is empty (0 bytes)", hint="copy or download it again")
    if head.startswith(b"version https://git-lfs"):
        raise ModelError(f"{path} is a git-LFS pointer, not the weights", hint="git lfs pull")
    if text.startswith((b"<!doctype", b"<html", b"<?xml")):
        raise ModelError(
            f"{path} is a web page, not weights: the download gave an error or a login page",
            hint="open it in a browser",
        )
    if head[8:9] == b"{" or path.suffix == ".safetensors":  # before pickle: a length may begin with its 0x80
        length = int.from_bytes(head[:8], "little")
        if length > min(HEADER_LIMIT, path.stat().st_size - 8):
            raise damaged(path, f"its header should have {length:,} bytes")
        try:
            return load_file(path)
        except SafetensorError as e:
            raise damaged(path, str(e)) from e
    if head.startswith((b"PK\x03\x04", b"\x80")):
        return read_torch(path)
    raise ModelError(f"{path} is neither a safetensors nor a torch file: it begins with {head[:8]!r}")


def read_torch(path: Path) -> Any:
    try:
        with warnings.catch_warnings(), torch.serialization.safe_globals(HARMLESS):
            warnings.simplefilter("ignore")  # about pickle protocols: the error below says it better
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as e:
        found = re.search(r"GLOBAL (\S+) (was not|whose)", str(e))
        raise RefusedError(
            f"{path} holds Python objects ({found[1] if found else 'not a file of torch.save'}), not only weights",
            why="loading them would run code from the file",
            hint="if you trust its source, load it yourself and torch.save(model.state_dict(), FILE)",
        ) from e
    except Exception as e:  # torch: RuntimeError, EOFError, struct.error, KeyError ... for a damaged file
        raise damaged(path, f"{e}".strip().split("\n")[0].split(". ")[0] or type(e).__name__) from e


def unwrapped(value: Any, path: Path) -> tuple[dict[str, Tensor], list[str]]:
    """The state dict in what a file holds, and what was done to find it."""
    notices: list[str] = []
    for _ in range(5):  # a file could hold itself
        if not isinstance(value, Mapping):
            break
        tensors = {str(k): v for k, v in value.items() if isinstance(v, Tensor)}
        holder = next((k for k in HOLDERS if isinstance(value.get(k), Mapping)), None)
        if holder is None or len(tensors) == len(value):
            if not tensors:
                raise ModelError(
                    f"{path} holds no weights; its entries are {', '.join(map(str, list(value)[:8])) or 'none'}"
                )
            return tensors, notices
        notices.append(f"{path.name}: took the weights from its entry {holder!r}")
        value = value[holder]
    raise ModelError(f"{path} holds a {type(value).__name__}, expected a state dict: names and tensors")


def without_prefixes(state: dict[str, Tensor], expected: Iterable[str]) -> tuple[dict[str, Tensor], list[str]]:
    """Names without what wrappers put in front of them, as long as that brings them nearer to the expected names."""
    expected, notices = set(expected), []
    if not any("_orig_mod." in k for k in expected) and any("_orig_mod." in k for k in state):
        state = {k.replace("_orig_mod.", ""): v for k, v in state.items()}
        notices.append("removed '_orig_mod.' of torch.compile from the names")
    while True:
        fit = len(expected & state.keys())
        for prefix in PREFIXES:
            rest = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
            if len(expected & rest.keys()) > fit or (rest and fit == 0 and len(rest) == len(state)):
                left = len(state) - len(rest)
                notices.append(f"removed {prefix!r} from the names" + (f"; left {left} other tensors" if left else ""))
                state = rest
                break
        else:
            return state, notices


def load_weights(module: nn.Module, path: str | Path, partial: bool = False) -> list[str]:
    """Load a file into a module; all of it or, on request, what fits.

    Args:
        module: changed in place, and only if the file is accepted.
        path: a safetensors file, or a torch file of tensors and plain values. Holders (``state_dict``, ``model``, ``ema``
            ...) and prefixes (``module.``, ``_orig_mod.``, ``model.``, ``student.`` ...) are recognised.
        partial: load what fits and leave the rest as it is.

    Returns:
        What was done to the names and what was left out, to be shown to the user.

    Raises:
        ModelError: the file is missing, damaged, no weights, or does not fit (nothing at all fits, with ``partial``).
        RefusedError: the file holds Python objects.
    """
    path = Path(path).expanduser()
    state, notices = unwrapped(read(path), path)
    own = {k: v for k, v in module.state_dict().items() if isinstance(v, Tensor)}
    state, stripped = without_prefixes(state, own)
    notices += [f"{path.name}: {n}" for n in stripped]

    given = {_place(own[k]) for k in state.keys() & own.keys()}
    fits = {k: v for k, v in state.items() if k in own and (is_lazy(own[k]) or v.shape == own[k].shape)}
    wrong = {
        # absent from old files; and one of several names of a shared tensor is enough
        "missing": [
            k for k in own if k not in state and not k.endswith("num_batches_tracked") and _place(own[k]) not in given
        ],
        "unexpected": [k for k in state if k not in own],
        "of another shape": [
            f"{k} {(*v.shape,)}, not {(*own[k].shape,)}" for k, v in state.items() if k in own and k not in fits
        ],
    }
    said = [
        f"{len(names)} {kind}: {', '.join(names[:5])}{', ...' if len(names) > 5 else ''}"
        for kind, names in wrong.items()
        if names
    ]
    if said and not (partial and fits):
        raise ModelError(
            f"{path} does not fit {type(module).__name__}: " + "; ".join(said),
            why=f"{len(fits)} of {len(own)} tensors fit",
            hint="the model these weights were made for"
            + (", or --partial to load what fits" if fits and not partial else ""),
        )
    module.load_state_dict(fits, strict=False)
    return notices + [f"{path.name}: loaded {len(fits)} of {len(own)} tensors; {s}" for s in said]


def _place(t: Tensor) -> tuple[Any, ...]:
    """What two names of one tensor have in common."""
    return (id(t),) if is_lazy(t) else (t.data_ptr() or id(t), t.shape, t.stride(), t.dtype)


def save_weights(module: nn.Module, path: str | Path) -> str:
    """Write a module's state dict as safetensors, atomically: plain, contiguous, a shared tensor once.

    Returns:
        The sha256 of the file.

    Raises:
        ModelError: the state dict holds something that is no tensor.
        MachineError: the disk is full or the place cannot be written.
    """
    path, state = Path(path), module.state_dict()
    strange = [k for k, v in state.items() if not isinstance(v, Tensor)]
    if strange:
        raise ModelError(
            f"only tensors can be saved, but {strange[0]!r} of {type(module).__name__} is a {type(state[strange[0]]).__name__}"
        )
    once = {*{_place(v): k for k, v in reversed(state.items())}.values()}
    tensors = {k: v.detach().cpu().contiguous() for k, v in state.items() if k in once}
    # a view of something larger is copied: safetensors refuses it
    tensors = {k: v if v.untyped_storage().nbytes() == v.nbytes else v.clone() for k, v in tensors.items()}
    content = save(tensors, metadata={"format": "pt"})
    with writing(path):
        write_atomically(path, content)
    return hashlib.sha256(content).hexdigest()
