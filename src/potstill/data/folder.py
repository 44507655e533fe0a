"""Folders of pictures: ``PATH/CLASS/picture.png``, or ``PATH/train/CLASS/picture.png`` with ``val`` and ``test`` beside it."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

import numpy as np

from potstill.data.pictures import SUFFIXES
from potstill.data.store import Raw
from potstill.errors import DataError, did_you_mean

PARTS = {"train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
"""What a part of the data may be called."""
TREE = "PATH/CLASS/picture.png, or PATH/train/CLASS/picture.png with val/ and test/ beside train/"


def missing(path: Path, known: tuple[str, ...] = ()) -> DataError:
    """The error for a path that is not there: it names the nearest thing that is, and nothing is downloaded."""
    parent = next((p for p in path.absolute().parents if p.is_dir()), Path(path.anchor or "."))
    try:
        siblings = [e.name for e in islice(os.scandir(parent), 5000)] if parent == path.absolute().parent else []
    except OSError:
        siblings = []
    return DataError(
        f"no such file or folder: {path}.{did_you_mean(path.name, [*siblings, *known])}",
        why=f"nearest folder that exists: {parent}" if str(parent) != "." else None,
    )


def folder(path: Path) -> tuple[str, Callable[[], Raw]]:
    """List a folder of pictures; gives what identifies it (names, sizes, times) and how to read it.

    Classes are the folders' names in sorted order, those of ``train`` where there are parts; a class keeps its number in
    every part, whichever of them has it. Pictures may lie deeper. Links to folders are followed, but never in a circle.

    Raises:
        DataError: no such folder, no class folders, no pictures, or a class that training does not know.
    """
    if not path.is_dir():
        raise missing(path) if not path.exists() else DataError(f"not a folder: {path}", hint=f"folder:{path.parent}")
    skipped: Counter[str] = Counter()
    classes: list[str] = []
    files: list[str] = []
    labels: list[int] = []
    sizes: dict[str, int] = {}
    stamp = hashlib.sha256()
    for part, root in _parts(path).items():
        before = len(files)
        found = [d.name for d in _folders(root)]
        skipped["file(s) beside the class folders"] += sum(
            _kind(e) == "file" and not e.name.startswith(".") for e in os.scandir(root)
        )
        if not found:
            raise _no_classes(root)
        if part in ("train", "all"):
            classes = found
        strange = sorted({*found} - {*classes})
        if strange:
            raise DataError(
                f"class {strange[0]!r} is in {root.name}/ but not among the {len(classes)} classes of training"
                f"{did_you_mean(strange[0], classes)}",
                where=str(path),
                hint="give every class a folder in train/, or take it out of the others",
            )
        empty = []
        for name in found:
            pictures = list(_pictures(root / name, skipped))
            empty += [] if pictures else [name]
            for file, stat in pictures:
                relative = os.path.relpath(file, path)
                files.append(relative)
                labels.append(classes.index(name))
                stamp.update(f"{relative}\0{stat.st_size}\0{stat.st_mtime_ns}\0".encode("utf-8", "surrogateescape"))
        if len(files) == before:
            raise DataError(
                f"no pictures in {root}", why=_skips(skipped), hint=f"pictures end in {', '.join(sorted(SUFFIXES))}"
            )
        if empty and part in ("train", "all"):
            raise DataError(
                f"class {empty[0]!r} has no pictures: a net cannot learn it",
                where=str(root / empty[0]),
                why=_skips(skipped),
                hint="take the folder out, or put pictures in",
            )
        sizes[part] = len(files) - before
    stamp.update(repr((classes, sizes)).encode("utf-8", "surrogateescape"))
    notices = [f"skipped: {_skips(skipped)}"] if _skips(skipped) else []

    def read() -> Raw:
        shown = [_text(c) for c in classes], [_text(f) for f in files]
        return Raw(shown[0], np.array(labels), shown[1], sizes, (path / f for f in files), notices)

    return stamp.hexdigest(), read


def _parts(path: Path) -> dict[str, Path]:
    """The parts of the data, train first, or all of it."""
    parts: dict[str, Path] = {}
    others: list[Path] = []
    for entry in _folders(path):
        part = PARTS.get(entry.name.lower())
        if part is None:
            others.append(entry)
        elif part in parts:
            raise DataError(
                f"two folders for one part of the data: {parts[part].name}/ and {entry.name}/", where=str(path)
            )
        else:
            parts[part] = entry
    if "train" in parts:
        if others:
            raise DataError(
                f"a folder {others[0].name}/ beside {parts['train'].name}/: is it a class or a part of the data?",
                where=str(path),
                hint=f"keep only train/, val/ and test/ there, or only classes{did_you_mean(others[0].name, ['val', 'test'])}",
            )
        return {p: parts[p] for p in ("train", "val", "test") if p in parts}
    if parts and not others:
        raise DataError(
            f"found {', '.join(f'{p.name}/' for p in parts.values())} but no train/", where=str(path), hint=TREE
        )
    return {"all": path}


def _folders(path: Path) -> list[Path]:
    return sorted(
        (Path(e.path) for e in os.scandir(path) if _kind(e) == "folder" and not e.name.startswith(".")),
        key=lambda p: p.name,
    )


def _pictures(root: Path, skipped: Counter[str]) -> Iterator[tuple[str, os.stat_result]]:
    """Every picture under a class folder, in sorted order; each real folder is visited once."""
    seen: set[tuple[int, int]] = set()
    waiting = [str(root)]
    while waiting:
        here = waiting.pop()
        stat = os.stat(here)
        if (stat.st_dev, stat.st_ino) in seen:
            skipped["link(s) to a folder seen before"] += 1
            continue
        seen.add((stat.st_dev, stat.st_ino))
        deeper = []
        for entry in sorted(os.scandir(here), key=lambda e: e.name):
            if entry.name.startswith("."):
                skipped["hidden file(s)"] += 1
            elif (kind := _kind(entry)) == "folder":
                deeper.append(entry.path)
            elif os.path.splitext(entry.name)[1].lower() not in SUFFIXES:
                skipped["file(s) that are no pictures"] += 1
            elif kind != "file":
                skipped["broken link(s)"] += 1
            elif entry.stat().st_size == 0:
                skipped["file(s) of 0 bytes"] += 1
            else:
                yield entry.path, entry.stat()
        waiting += reversed(deeper)


def _text(name: str) -> str:
    """A name that can be printed: bytes that are no text are shown as such."""
    return name.encode("utf-8", "backslashreplace").decode()


def _kind(entry: os.DirEntry[str]) -> str:
    """``folder``, ``file`` or nothing, through links; a link that leads to itself is nothing."""
    try:
        return "folder" if entry.is_dir() else "file" if entry.is_file() else ""
    except OSError:
        return ""


def _skips(skipped: Counter[str]) -> str:
    return ", ".join(f"{n} {what}" for what, n in sorted(skipped.items()) if n)


def _no_classes(root: Path) -> DataError:
    files = sorted(e.name for e in os.scandir(root) if _kind(e) == "file" and not e.name.startswith("."))
    pictures = [f for f in files if os.path.splitext(f)[1].lower() in SUFFIXES]
    found = (
        f"{len(pictures)} pictures ({', '.join(pictures[:3])}{' ...' if len(pictures) > 3 else ''})"
        if pictures
        else f"{len(files)} files"
    )
    return DataError(
        f"no class folders in {root}: found {found if files else 'nothing'}",
        why=f"expected {TREE}",
        hint="put the pictures of each class into a folder that bears its name",
    )
