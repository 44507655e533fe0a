"""Parquet files in the image/label layout of Hugging Face ``datasets``. Needs pyarrow (``potstill[parquet]``)."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from potstill.data.arrays import to_labels
from potstill.data.folder import PARTS, missing
from potstill.data.store import Raw
from potstill.errors import DataError, did_you_mean
from potstill.extras import optional

IMAGES, LABELS = ("image", "img", "picture", "jpg", "png"), ("label", "fine_label", "labels", "class", "y")


def parquet(path: Path, *, label: str | None = None, image: str | None = None) -> tuple[str, Callable[[], Raw]]:
    """Find parquet files; gives what identifies them (names, sizes, times) and how to read them.

    Parts come from names: ``train-00000-of-00003.parquet``, ``validation.parquet`` or ``test/0000.parquet``; without such
    names all rows are one part. Pictures are a binary column, or a struct with ``bytes`` as ``datasets`` writes it. Names of
    classes come from the ``huggingface`` metadata of the schema, or are the sorted texts where labels are text.

    Args:
        path: a file, or a folder with files at any depth.
        label: the column of the labels; default ``label``, else ``fine_label``.
        image: the column of the pictures; default ``image``, else ``img``.

    Raises:
        MachineError: pyarrow is not installed.
        DataError: no such file, no such column, or a column of another kind.
    """
    pq = optional("pyarrow.parquet", "parquet", what="a parquet file")
    if not path.exists():
        raise missing(path)
    files = sorted(path.rglob("*.parquet")) if path.is_dir() else [path]
    files = [f for f in files if not any(p.startswith(".") for p in f.relative_to(path).parts)]
    if not files:
        raise DataError(f"no .parquet files in {path}")
    parts = _parts(files, path)
    stats = [(str(f.relative_to(path)), f.stat().st_size, f.stat().st_mtime_ns) for f in files]
    stamp = hashlib.sha256(repr((stats, label, image)).encode("utf-8", "surrogateescape")).hexdigest()

    def read() -> Raw:
        try:
            readers = {part: [(f, pq.ParquetFile(f)) for f in some] for part, some in parts.items()}
        except Exception as error:  # pyarrow's own errors
            raise DataError(f"not a parquet file: {error}", where=str(path)) from error
        schema = next(iter(readers.values()))[0][1].schema_arrow
        y, x = _column(schema, label, LABELS, "label"), _column(schema, image, IMAGES, "image")
        names = [f"{f.name}[{i}]" for some in readers.values() for f, r in some for i in range(r.metadata.num_rows)]
        values = [v for some in readers.values() for f, r in some for v in _labels(f, r, y)]
        classes, labels = _classes(schema, y, values, names)
        sizes = {part: sum(r.metadata.num_rows for _, r in some) for part, some in readers.items()}
        pictures = (p for some in readers.values() for f, r in some for p in _pictures(f, r, x))
        return Raw(classes, labels, names, sizes, pictures)

    return stamp, read


def _parts(files: list[Path], path: Path) -> dict[str, list[Path]]:
    """The files of each part, train first."""
    parts: dict[str, list[Path]] = {}
    for file in files:
        words = [*file.relative_to(path).parts[:-1], re.split(r"[-_.]", file.name)[0]] if path.is_dir() else []
        part = next((PARTS[w.lower()] for w in reversed(words) if w.lower() in PARTS), "all")
        parts.setdefault(part, []).append(file)
    if len(parts) > 1 and ("all" in parts or "train" not in parts):
        odd = parts.get("all", files)[0].name
        raise DataError(
            f"cannot tell which part of the data {odd} is"
            if "all" in parts
            else f"found {', '.join(parts)} but no train",
            where=str(path),
            hint="begin the names of the files with train, validation or test",
        )
    if len(parts) == 1:
        return {"all": files}
    return {p: parts[p] for p in ("train", "val", "test") if p in parts}


def _column(schema: Any, asked: str | None, usual: tuple[str, ...], what: str) -> str:
    name = asked or next((n for n in usual if n in schema.names), None)
    if name not in schema.names:
        raise DataError(
            f"no column {name or what!r}.{did_you_mean(name or what, schema.names)} Columns: {', '.join(schema.names)}",
            hint=f"parquet:PATH?{what}=COLUMN",
        )
    return str(name)


def _labels(file: Path, reader: Any, column: str) -> list[Any]:
    return list(reader.read(columns=[column]).column(0).to_pylist())


def _classes(schema: Any, column: str, values: list[Any], names: list[str]) -> tuple[list[str], np.ndarray]:
    """Names of the classes and a label a row; a row without one has -1."""
    if any(isinstance(v, str) for v in values):
        classes = sorted({v for v in values if isinstance(v, str)})
        index = {c: i for i, c in enumerate(classes)}
        return classes, to_labels([-1 if v is None else index.get(v, -2) for v in values], len(classes), names)
    known = _metadata(schema).get(column, {})
    declared = known.get("names") or known.get("feature", {}).get("names")
    labels = to_labels(np.array([-1 if v is None else v for v in values]), len(declared) if declared else None, names)
    return declared or [str(i) for i in range(int(labels.max(initial=-1)) + 1)], labels


def _metadata(schema: Any) -> dict[str, Any]:
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        return {k: v for k, v in features.items() if isinstance(v, dict)}
    except (KeyError, ValueError, TypeError, AttributeError):
        return {}


def _pictures(file: Path, reader: Any, column: str) -> Iterator[bytes]:
    for batch in reader.iter_batches(batch_size=256, columns=[column]):
        for value in batch.column(0).to_pylist():
            content = value.get("bytes") if isinstance(value, dict) else value
            if not isinstance(content, bytes):
                raise DataError(
                    f"column {column!r} holds no bytes of pictures but {_short(value)}",
                    where=str(file),
                    hint="write the bytes into the file: datasets' to_parquet() alone keeps only paths of this machine",
                )
            yield content


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
