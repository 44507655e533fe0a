"""The official Python archives of CIFAR-10 and CIFAR-100 (Krizhevsky, 2009).

Their members are pickles. They are read one by one in memory, by an unpickler that admits only what these files hold.
"""

from __future__ import annotations

import hashlib
import io
import os
import pickle
import tarfile
import tempfile
import urllib.request
import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from potstill.data.arrays import to_labels
from potstill.data.folder import missing
from potstill.data.store import Raw
from potstill.errors import DataError, MachineError, RefusedError

LIMIT = 2**28  # bytes of one member; the largest has 155 MB


@dataclass(frozen=True)
class Archive:
    """What an archive is called, where it is, and what lies in it."""

    file: str
    md5: str
    folder: str
    train: tuple[str, ...]
    test: tuple[str, ...]
    meta: str
    labels: dict[str, tuple[str, str]]  # what the user says: (key of the labels, key of the names)
    url: str = "https://www.cs.toronto.edu/~kriz/"


ARCHIVES = {
    "cifar10": Archive(
        "cifar-10-python.tar.gz",
        "c58f30108f718f92721af3b95e74349a",
        "cifar-10-batches-py",
        tuple(f"data_batch_{i}" for i in range(1, 6)),
        ("test_batch",),
        "batches.meta",
        {"label": ("labels", "label_names")},
    ),
    "cifar100": Archive(
        "cifar-100-python.tar.gz",
        "eb9058c3a382ffc7106e4002c42a8d85",
        "cifar-100-python",
        ("train",),
        ("test",),
        "meta",
        {"fine": ("fine_labels", "fine_label_names"), "coarse": ("coarse_labels", "coarse_label_names")},
    ),
}


def cifar(name: str, path: Path, *, label: str | None = None, download: bool = False) -> tuple[str, Callable[[], Raw]]:
    """Find an archive or its extracted folder, or the folder that either lies in; gives what identifies it and how to read it.

    Args:
        name: ``cifar10`` or ``cifar100``.
        path: the archive, the extracted folder, or a folder with one of them.
        label: of CIFAR-100, ``fine`` (100 classes, the default) or ``coarse`` (20).
        download: fetch the archive into ``path`` (a folder) where it is not there.

    Raises:
        DataError: not there, or not that archive.
        MachineError: the download failed.
        RefusedError: a member asks for an object that these files never hold.
    """
    archive = ARCHIVES[name]
    label = label or next(iter(archive.labels))
    if label not in archive.labels:
        raise DataError(f"{name} has no labels {label!r}, only {', '.join(archive.labels)}")
    where = next(
        (p for p in (path / archive.folder, path / archive.file, path) if (p / archive.meta).is_file() or p.is_file()),
        None,
    )
    if where is None:
        if not download:
            error = DataError(f"{archive.file} is not in {path}") if path.is_dir() else missing(path)
            error.hint = f"fetch {archive.url}{archive.file}, or set data.download=true"
            raise error
        where = _download(archive, path)
    files = [where / m for m in (*archive.train, *archive.test, archive.meta)] if where.is_dir() else [where]
    stats = [(f.name, f.stat().st_size, f.stat().st_mtime_ns) for f in files if f.is_file()]

    def read() -> Raw:
        members = _members(where, archive)
        y, names = archive.labels[label]
        try:
            classes = [str(c) for c in members[archive.meta][names]]
            blocks = [members[m] for m in (*archive.train, *archive.test)]
            pictures = [np.asarray(b["data"]).reshape(-1, 3, 32, 32) for b in blocks]
            labels = to_labels(np.concatenate([np.asarray(b[y]) for b in blocks]), len(classes))
        except (KeyError, ValueError, TypeError) as error:
            raise DataError(f"not the {name} archive: {type(error).__name__} {error}", where=str(where)) from error
        count = sum(len(p) for p in pictures[: len(archive.train)])
        if any(p.dtype != np.uint8 for p in pictures) or sum(map(len, pictures)) != len(labels):
            raise DataError(f"not the {name} archive: pictures must be uint8, with one label each", where=str(where))
        return Raw(
            classes, labels, None, {"train": count, "test": len(labels) - count}, (x for p in pictures for x in p)
        )

    return repr((name, label, stats)), read


def _members(where: Path, archive: Archive) -> dict[str, Any]:
    wanted = {*archive.train, *archive.test, archive.meta}
    found = {
        n: _unpickle(f, f"{where}/{n}") for n, f in (_in_folder if where.is_dir() else _in_tar)(where, wanted, archive)
    }
    if lost := sorted(wanted - {*found}):
        raise DataError(
            f"the archive lacks {', '.join(lost)}", where=str(where), hint=f"fetch {archive.url}{archive.file} again"
        )
    return found


def _in_folder(where: Path, wanted: set[str], archive: Archive) -> Iterator[tuple[str, IO[bytes]]]:
    for name in wanted:
        if (where / name).is_file():
            with open(where / name, "rb") as file:
                yield name, file


def _in_tar(where: Path, wanted: set[str], archive: Archive) -> Iterator[tuple[str, IO[bytes]]]:
    """Members by their full name, in memory: nothing is ever extracted to a path that an archive names."""
    try:
        with tarfile.open(where) as tar:
            for member in tar:
                folder, _, name = member.name.rpartition("/")
                if folder == archive.folder and name in wanted and member.isfile():
                    if member.size > LIMIT:
                        raise RefusedError(
                            f"{member.name} has {member.size} bytes, more than any member of this archive",
                            where=str(where),
                        )
                    file = tar.extractfile(member)
                    assert file is not None  # a regular file
                    yield name, file
    except (tarfile.TarError, zlib.error, EOFError, OSError) as error:
        raise DataError(
            f"not a whole archive: {error}", where=str(where), hint=f"fetch {archive.url}{archive.file} again"
        ) from error


class _Unpickler(pickle.Unpickler):
    """Admits lists, dicts, numbers, text, and arrays of numbers."""

    def find_class(self, module: str, name: str) -> Any:
        module = module.replace("numpy._core", "numpy.core")
        if (module, name) == ("numpy.core.multiarray", "_reconstruct"):
            return _reconstruct
        if (module, name) == ("numpy", "ndarray"):
            return name  # only ever handed to _reconstruct; as text it cannot be called
        if (module, name) == ("numpy", "dtype"):
            return np.dtype
        if (module, name) == ("_codecs", "encode"):
            return _encode
        raise RefusedError(f"a pickle asks for {module}.{name}", why="CIFAR holds only lists, numbers, text and arrays")


def _reconstruct(kind: Any, shape: Any, code: Any) -> np.ndarray:
    return np.empty((0,), np.uint8)  # filled by __setstate__, as every pickled array is


def _encode(text: str, how: str) -> bytes:
    return text.encode("latin-1")  # how Python 3 writes bytes in the old protocol


def _unpickle(file: IO[bytes], name: str) -> dict[str, Any]:
    try:
        content = _Unpickler(io.BytesIO(file.read(LIMIT)), encoding="latin1").load()
    except RefusedError as error:
        error.where = name
        raise
    except Exception as error:  # a broken pickle raises nearly anything
        raise DataError(f"cannot be read: {type(error).__name__}: {error}", where=name) from error
    if not isinstance(content, dict):
        raise DataError(f"expected a dict, got {type(content).__name__}", where=name)
    return {str(k, "latin1") if isinstance(k, bytes) else k: v for k, v in content.items()}


def _download(archive: Archive, folder: Path) -> Path:
    """Fetch the archive beside its name, check it, then give it its name."""
    url, target = archive.url + archive.file, folder / archive.file
    handle = None
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle, part = tempfile.mkstemp(prefix=f".{archive.file}.", dir=folder)
        digest = hashlib.md5(usedforsecurity=False)
        with os.fdopen(handle, "wb") as out, urllib.request.urlopen(url, timeout=60) as source:
            while block := source.read(2**20):
                digest.update(block)
                out.write(block)
        if digest.hexdigest() != archive.md5:
            raise MachineError(
                f"{url} has md5 {digest.hexdigest()}, expected {archive.md5}", hint="try again, or fetch it by hand"
            )
        os.replace(part, target)
    except OSError as error:
        raise MachineError(
            f"cannot download {url}: {error}", hint=f"fetch it by hand and put it into {folder}"
        ) from error
    finally:
        if handle is not None:
            with suppress(OSError):
                os.unlink(part)
    return target
