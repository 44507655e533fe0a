"""Before a file is run: what it is, and that opening it runs no code and reads nothing but itself."""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from potstill.compress.extra import need
from potstill.errors import ModelError, RefusedError, did_you_mean
from potstill.models.weights import existing_file, reading

LARGEST = 2 << 30
"""Largest artefact that is read, in bytes: the bound of a protobuf, so of every ONNX file."""

TEXT_LIMIT = 64 << 20
"""Longest JSON in an archive that is read, in bytes."""

CARD_LIMIT = 16 << 20
SUFFIXES = {".onnx": "onnx", ".pt2": "pt2", ".pte": "pte"}
DOMAINS = {"", "ai.onnx", "ai.onnx.ml", "com.microsoft"}

TARGET = re.compile(r"torch\.ops\.(aten|quantized_decomposed|torchao)\.\w+(\.\w+)?|_operator\.[a-z]+|math\.[a-z]+")
"""Of an operation in an archive of torch.export: operators of torch, no other function of it."""

EXPRESSION = re.compile(
    r"(?:Symbol|Integer|Add|Mul|Pow|Max|Min|FloorDiv|CeilDiv|CleanDiv|Mod|PythonMod|ModularIndexing|True|False|positive|integer|"
    r"s\d+|u\d+|[us]\w*\d+|\d+|[-+*/(),='<> ])*"
)
"""Of a size in such an archive: torch hands it to a parser that evaluates Python."""


def kind_of(path: str | Path) -> tuple[Path, str]:
    """A file that is there, and its kind: ``onnx``, ``pt2`` or ``pte``.

    Raises:
        ModelError: no such file, or a name of none of these kinds.
        RefusedError: it is too large.
    """
    file = existing_file(path)
    kind = SUFFIXES.get(file.suffix.lower())
    if kind is None:
        near = did_you_mean(file.suffix, SUFFIXES)
        raise ModelError(
            f"{file} is no artefact: expected a run directory or a file of export ({', '.join(SUFFIXES)}), "
            f"got {file.suffix or 'no suffix'!r}.{near}",
            hint="the artefact comes first: potstill predict ARTEFACT PICTURE..., potstill bench ARTEFACT...",
        )
    with reading(file):
        size = file.stat().st_size
    if size > LARGEST:
        raise RefusedError(f"{file} has {size:,} bytes; an artefact has at most {LARGEST:,}")
    if size < 8:
        raise ModelError(f"{file} is no {kind} file: it has {size} bytes", hint="copy or export it again")
    return file, kind


def checked_onnx(path: Path) -> Any:
    """The model in an ONNX file, without data that lie elsewhere.

    Raises:
        ModelError: it is no ONNX model of one picture input and one output.
        RefusedError: it refers to files outside its folder, or to operators of strange libraries.
    """
    onnx = need("onnx")
    with reading(path):
        content = path.read_bytes()
    try:
        model = onnx.ModelProto.FromString(content)
        elsewhere = any(
            t.data_location == onnx.TensorProto.EXTERNAL or t.external_data
            for t in _tensors(model.graph, model.functions)
        )
        if not elsewhere:  # the checker would look for those files
            onnx.checker.check_model(content)
    except Exception as error:  # DecodeError, ValidationError
        raise ModelError(f"{path} is no ONNX file, or a damaged one: {str(error).splitlines()[0][:200]}") from error
    if elsewhere:
        raise RefusedError(
            f"{path} keeps its weights in other files",
            why="such a file can name any file of this machine",
            hint="potstill export writes all into one file",
        )
    strange = [o.domain for o in model.opset_import if o.domain not in DOMAINS]
    if strange:
        raise RefusedError(f"{path} needs operators of {strange[0]!r}, which only a foreign library has")
    weights = {i.name for i in model.graph.initializer}
    inputs = [i for i in model.graph.input if i.name not in weights]
    ranks = [len(v.type.tensor_type.shape.dim) for v in (*inputs, *model.graph.output)]
    if len(inputs) != 1 or len(model.graph.output) != 1 or ranks != [4, 2]:
        raise ModelError(f"{path} does not map pictures (B, C, H, W) to logits (B, classes): ranks {ranks}")
    return model


def _tensors(graph: Any, functions: Any = ()) -> Iterator[Any]:
    """All constants of a graph, of its branches and loops, and of the model's functions."""
    nodes = [*graph.node, *(n for f in functions for n in f.node)]
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield from (sparse.values, sparse.indices)
    for node in nodes:
        for a in node.attribute:
            if a.HasField("t"):
                yield a.t
            yield from a.tensors
            for inner in (*([a.g] if a.HasField("g") else []), *a.graphs):
                yield from _tensors(inner)


def checked_pt2(path: Path) -> dict[str, Any]:
    """The card in an archive of ``torch.export`` whose loading runs no code.

    ``torch.export.load`` unpickles what an archive asks it to and evaluates its expressions; so an archive may ask for neither.

    Raises:
        ModelError: it is no such archive, or a damaged one.
        RefusedError: loading it could run code.
    """
    try:
        archive = zipfile.ZipFile(path)
    except (zipfile.BadZipFile, OSError) as error:
        raise ModelError(f"{path} is no archive of torch.export: {error}", hint="copy or export it again") from error
    with archive:
        members = {i.filename: i for i in archive.infolist()}
        if len(members) != len(archive.infolist()) or sum(i.file_size for i in members.values()) > LARGEST:
            raise RefusedError(f"{path} is a strange archive: members twice, or more than {LARGEST:,} bytes unpacked")
        inside = {PurePosixPath(*PurePosixPath(name).parts[1:]).as_posix(): name for name in members}
        if "archive_format" not in inside or "models/model.json" not in inside:
            raise ModelError(f"{path} is no archive of torch.export", hint="copy or export it again")
        allowed = re.compile(
            r"archive_\w+|byteorder|\.data/\w+|models/model\.json|extra/\w+\.json|data/weights/(weight_\d+|\w+\.json)"
            r"|data/constants/(tensor_\d+|\w+\.json)"
        )
        for name in inside:
            empty = name == "data/sample_inputs/model.pt" and members[inside[name]].file_size == 0
            if not (empty or allowed.fullmatch(name)):
                raise _runs_code(path, f"it holds {name}")

        def read(name: str) -> Any:
            if members[inside[name]].file_size > TEXT_LIMIT:
                raise RefusedError(f"{path} holds a text of {members[inside[name]].file_size:,} bytes")
            return json.loads(archive.read(inside[name]))

        try:
            if archive.read(inside["archive_format"]) != b"pt2":
                raise ModelError(f"{path} is no archive of torch.export")
            for name in inside:
                if name.endswith("_config.json") and any(
                    entry.get("use_pickle") is not False for entry in read(name)["config"].values()
                ):
                    raise _runs_code(path, "it asks for unpickling")
            program = read("models/model.json")
            if program["guards_code"] or program["graph_module"].get("treespec_namedtuple_fields"):
                raise _runs_code(path, "it brings Python code")
            for key, value in _leaves(program):
                if key in ("target", "as_operator") and not TARGET.fullmatch(value):
                    raise _runs_code(path, f"it calls {value[:80]!r}")
                if key == "expr_str" and not EXPRESSION.fullmatch(value):
                    raise _runs_code(path, f"it evaluates {value[:80]!r}")
            card: dict[str, Any] = read("extra/potstill.json") if "extra/potstill.json" in inside else {}
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError, zipfile.BadZipFile) as error:
            raise ModelError(f"{path} is damaged: {type(error).__name__}: {str(error)[:200]}") from error
    return card


def _leaves(value: Any, key: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(value, dict):
        for k, v in value.items():
            yield from _leaves(v, k)
    elif isinstance(value, list):
        for v in value:
            yield from _leaves(v, key)
    elif isinstance(value, str):
        yield key, value


def _runs_code(path: Path, what: str) -> RefusedError:
    return RefusedError(
        f"{path} is refused: {what}",
        why="loading it could run code from the file",
        hint="export it again with potstill export, from the run's own student",
    )


def checked_pte(path: Path) -> dict[str, Any]:
    """The card of an ExecuTorch file, which lies beside it.

    Raises:
        ModelError: it is no ExecuTorch file, or its card is damaged.
    """
    with reading(path), open(path, "rb") as file:
        head = file.read(8)
    if not re.fullmatch(rb"ET\d\d", head[4:]):
        raise ModelError(f"{path} is no ExecuTorch file: it begins with {head!r}", hint="copy or export it again")
    beside = path.with_name(path.name + ".json")
    return read_card(beside.read_bytes(), beside) if beside.is_file() else {}


def read_card(content: bytes | str, path: Path) -> dict[str, Any]:
    """What an artefact says of itself, checked.

    Raises:
        ModelError: it is damaged.
    """
    try:
        if len(content) > CARD_LIMIT:
            raise ValueError(f"{len(content):,} bytes")
        card = json.loads(content)
        kinds: dict[str, Any] = {"classes": list | None, "picture": list, "precision": str}
        strange = [k for k, kind in kinds.items() if not isinstance(card[k], kind)]
        names = card["classes"] or []
        if strange or not all(isinstance(n, str) for n in names) or not all(type(n) is int for n in card["picture"]):
            raise ValueError(f"{(strange or ['classes or picture'])[0]} has a wrong type")
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ModelError(f"what {path} says of itself is damaged: {error}", hint="export it again") from error
    assert isinstance(card, dict)
    return card
