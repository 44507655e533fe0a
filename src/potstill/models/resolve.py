"""From what the user names to a net: :func:`resolve`; and the student's files: :func:`save_student`, :func:`load_student`."""

from __future__ import annotations

import dataclasses
import json
import sys
import types
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import nn

from potstill.errors import ModelError, RefusedError, did_you_mean, first_line
from potstill.files import write_json
from potstill.models import hubs, sources
from potstill.models.net import Facts, Net
from potstill.models.preprocess import Preprocess
from potstill.models.reused import Head, Reused
from potstill.models.spec import Spec, parse
from potstill.models.surgery import Surgery
from potstill.models.weights import existing_file, load_weights, save_weights, sha256, writing

__all__ = ["Net", "load_student", "resolve", "save_student"]

RECORD_LIMIT = 16 << 20
"""Longest student.json that is read, in bytes."""


def resolve(
    spec: str | nn.Module | Net,
    *,
    num_classes: int | None = None,
    in_channels: int | None = None,
    weights: str | Path | None = None,
    partial: bool = False,
    trust_code: bool = False,
    **kwargs: Any,
) -> Net:
    """The net that ``spec`` names.

    Args:
        spec: a module, a :class:`Net`, or one of

            * ``zoo:NAME`` or just ``NAME``: ``resnet20``, ``zoo:cnn(widths=(8, 16))``; arguments are literals
            * ``timm:NAME``, ``torchvision:NAME``: untrained, unless its name or arguments ask for trained weights
            * ``hf:REPO``, ``hf:REPO@REVISION``, ``hf:FOLDER``: a trained image classifier of transformers
            * ``package.module:NAME``, ``FILE.py:NAME``: a class, function or module of the user's; this runs that code
            * the folder of a run: its student
        num_classes, in_channels: of the data; passed to a factory that starts untrained and whose signature names them.
            Trained heads are never replaced in silence.
        weights: a file to load (see :func:`potstill.models.load_weights`); the net is then built untrained.
        partial: load what fits of ``weights``.
        trust_code: run the user's code that the student.json of a run's folder names.
        **kwargs: more arguments for the factory.

    Raises:
        ModelError: there is no such net, it cannot be built, or the weights do not fit.
        MachineError: it needs a package that is missing or broken.
        RefusedError: it would run code that nobody asked for.
    """
    facts = {"num_classes": num_classes, "in_channels": in_channels}
    parsed = parse(spec) if isinstance(spec, str) else None
    if kwargs and (parsed is None or parsed.source == "run"):
        raise ModelError(f"a net that is already built takes no arguments, got {', '.join(kwargs)}")
    if isinstance(spec, Net):
        net = dataclasses.replace(spec, notices=[*spec.notices])
    elif isinstance(spec, nn.Module):
        net = Net(spec, f"object:{type(spec).__module__}.{type(spec).__qualname__}")
    elif parsed is None:
        raise ModelError(f"a net is a torch.nn.Module or a text that names one, got {type(spec).__name__}")
    elif parsed.source == "run":
        net = load_student(parsed.place, trust_code=trust_code)
    else:
        net = build(parsed._replace(kwargs={**parsed.kwargs, **kwargs}), facts, fresh=weights is not None)
    if weights is not None:
        path = existing_file(weights)
        net.notices += load_weights(net.module, path, partial)
        net.sha256, net.path = sha256(path), str(path)
    if in_channels is not None:
        net.in_channels = in_channels
        fit_channels(net, in_channels)
    return net


def build(spec: Spec, facts: Facts, fresh: bool) -> Net:
    """A net from its source; ``fresh`` without trained weights, because they come from elsewhere."""
    match spec.source:
        case "zoo":
            return sources.zoo(spec, facts)
        case "timm":
            return hubs.timm(spec, facts, fresh)
        case "torchvision":
            return hubs.torchvision(spec, facts, fresh)
        case "hf":
            return hubs.hf(spec, fresh)
        case _:
            return sources.user_code(spec, facts)


def fit_channels(net: Net, given: int) -> None:
    """Let grey pictures into a colour net and the reverse, where the net's first convolution says that it must be."""
    reads = next((m.in_channels for m in net.module.modules() if isinstance(m, nn.Conv2d)), given)
    if {reads, given} == {1, 3}:
        p = net.preprocess or Preprocess()
        net.preprocess = Preprocess(p.mean, p.std, p.size, reads)
        net.notices.append(
            f"the pictures have {given} channel{'s' * (given > 1)}, {net.spec} reads {reads}: "
            + ("grey is repeated" if given == 1 else "colour becomes grey")
        )


def save_student(
    folder: str | Path,
    net: Net,
    *,
    size: Sequence[int] | None = None,
    classes: Sequence[str] | None = None,
) -> str:
    """Write ``student.safetensors`` (the plain state dict) and ``student.json`` (how to build the net), atomically.

    Args:
        folder: is made if it is not there.
        net: the student; ``net.in_channels`` is recorded too.
        size: height and width of its pictures; ``net.size`` by default.
        classes: names of the classes in the order of the logits; ``net.classes`` by default.

    Returns:
        The sha256 of the weights.

    Raises:
        MachineError: the folder cannot be written.
    """
    folder, size, classes = Path(folder), size or net.size, classes or net.classes
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    digest = save_weights(net.module, folder / "student.safetensors")
    spec = lasting(net.spec)
    try:
        kwargs = {k: plain(v) for k, v in net.kwargs.items()}
    except TypeError:  # never lose a trained net: its weights are there, but only its owner can build it
        spec, kwargs = f"object:{spec}", {}
    record = {
        "format": 1,
        "model": spec,
        "kwargs": kwargs,
        "classes": None if classes is None else list(classes),
        "preprocess": None if net.preprocess is None else net.preprocess.to_json(),
        "in_channels": net.in_channels,
        "size": None if size is None else list(size),
        "sha256": digest,
    }
    if net.head:  # an older potstill, which could not build it, says so by the format
        record |= {"format": 2, "head": net.head.to_json()}
    if net.surgery:
        record |= {"format": 2, "surgery": net.surgery.to_json()}
    with writing(folder):
        write_json(folder / "student.json", record)
    return digest


def lasting(spec: str) -> str:
    """The spec as it holds from any working folder: a user's file by its whole path."""
    place, mark, name = spec.rpartition(".py:")
    return f"{Path(place + '.py').expanduser().resolve()}:{name}" if mark and not spec.startswith("object:") else spec


def plain(value: Any) -> Any:
    """A literal as JSON has it; a tuple stays one, as ``{"__tuple__": [...]}``."""
    if isinstance(value, tuple | list):
        items = [plain(v) for v in value]
        return items if isinstance(value, list) else {"__tuple__": items}
    if isinstance(value, dict) and all(isinstance(k, str) for k in value):
        return {k: plain(v) for k, v in value.items()}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"{value!r} is no literal")


def literal(value: dict[str, Any]) -> Any:
    return tuple(value["__tuple__"]) if value.keys() == {"__tuple__"} else value


def load_student(folder: str | Path, *, trust_code: bool = False, module: nn.Module | None = None) -> Net:
    """The student that :func:`save_student` wrote.

    Args:
        folder: with student.json and student.safetensors: that of a run.
        trust_code: run the user's code (``FILE.py:NAME``) that student.json names. Only for a run of one's own.
        module: the net as its owner builds it, where the student was a module object; it is changed in place.

    Raises:
        ModelError: a file is missing or damaged, or the net was a module object, which only its owner can build.
        RefusedError: building it would run code.
    """
    folder = Path(folder).expanduser()
    if folder.is_file():
        raise ModelError(f"{folder} is a file: of which net?", hint="name the net, and this file as its weights")
    if not folder.is_dir():
        beside = [str(p) for p in folder.parent.iterdir() if p.is_dir()] if folder.parent.is_dir() else []
        raise ModelError(f"there is no folder {folder}.{did_you_mean(str(folder), beside)}")
    if not (folder / "student.json").is_file():
        raise ModelError(f"{folder} has no student.json: it is not the folder of a finished run")
    record = read_record(folder / "student.json")
    spec, weights = record["model"], folder / "student.safetensors"
    if spec.startswith("object:") and module is None:
        raise ModelError(
            f"{folder}: this student was a module object ({spec.removeprefix('object:')}) that only its owner can build",
            hint=f"build it, then potstill.models.load_student({str(folder)!r}, module=it)",
        )
    if module is None:
        parsed = parse(spec)._replace(kwargs=record["kwargs"])
        if not trust_code:
            refuse_code(parsed, folder)
    if sha256(existing_file(weights)) != record["sha256"]:
        raise ModelError(
            f"{weights} is not the file that student.json describes: its sha256 differs", hint="copy both again"
        )
    net = build(parsed, {}, fresh=True) if module is None else Net(module, spec, record["kwargs"])
    if record.get("head") is not None:
        try:
            net.head = Head.from_json(record["head"])
            net.module = Reused(net.module, net.head)
        except ModelError as e:
            raise ModelError(f"{folder / 'student.json'}: {e.what}", hint=e.hint) from e
    if record.get("surgery") is not None:
        try:
            net.surgery = Surgery.from_json(record["surgery"])
            net.surgery.operate(net.module)
        except ModelError as e:
            raise ModelError(f"{folder / 'student.json'}: {e.what}", hint=e.hint) from e
    net.notices += load_weights(net.module, weights)
    if net.surgery:
        net.surgery.hold_zeros(net.module)
    net.preprocess = None if record["preprocess"] is None else Preprocess.from_json(record["preprocess"])
    net.classes, net.sha256, net.path = record["classes"], record["sha256"], str(weights)
    net.in_channels, net.size = record["in_channels"], record["size"] and tuple(record["size"])
    return net


def read_record(path: Path) -> dict[str, Any]:
    """What a student.json says, with the types it must have."""
    if path.stat().st_size > RECORD_LIMIT:
        raise RefusedError(f"{path} has {path.stat().st_size:,} bytes; a student.json has less than {RECORD_LIMIT:,}")
    try:
        record = json.loads(path.read_bytes(), object_hook=literal)
        newer = record["format"] not in (1, 2)
        kinds: dict[str, Any] = {"model": str, "kwargs": dict, "sha256": str, "classes": list | None}
        kinds |= {"preprocess": dict | None, "in_channels": int | None, "size": list | None}
        strange = [k for k, kind in kinds.items() if not isinstance(record[k], kind)]
    except (ValueError, KeyError, TypeError, RecursionError) as e:
        raise ModelError(f"{path} is damaged: {type(e).__name__}: {first_line(e)}", hint="copy it again") from e
    if newer:
        raise ModelError(
            f"{path} has format {record['format']}, this potstill reads formats 1 and 2", hint="pip install -U potstill"
        )
    if strange:
        raise ModelError(f"{path} is damaged: {strange[0]} is {record[strange[0]]!r}", hint="copy it again")
    return record


def refuse_code(spec: Spec, folder: Path) -> None:
    """Refuse a recorded net whose building could run code: the user's files, and texts that a library might look up."""

    def texts(value: Any) -> bool:
        children = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ()
        return isinstance(value, str) or any(map(texts, children))

    harmless = {"revision", "dtype", "id2label", "label2id"}
    odd = [k for k, v in spec.kwargs.items() if "trust" in k or (k not in harmless and texts(v))]
    if spec.source in ("file", "module", "run") or (spec.source != "zoo" and odd):
        what = f"{spec.text}({', '.join(odd)})" if odd else spec.text
        raise RefusedError(
            f"{folder} says that its student is {what}",
            why="building it would run code that these files name",
            hint="trust_code=true (eval and inspect: --trust-code), if the run is your own or you have read that code",
        )


class _Callable(types.ModuleType):
    """``potstill.models.resolve`` is the function for its users, and this module for those who import from it."""

    def __call__(self, *args: Any, **kwargs: Any) -> Net:
        return resolve(*args, **kwargs)


sys.modules[__name__].__class__ = _Callable
