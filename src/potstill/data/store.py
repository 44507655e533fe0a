"""Decoded pictures on disk: decoded once, in threads, then mapped into memory by every process that asks for them."""

from __future__ import annotations

import errno
import hashlib
import itertools
import json
import os
import secrets
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import IO, Any

import numpy as np
from filelock import FileLock
from PIL import UnidentifiedImageError

from potstill.data.pictures import Decoded, decode, quiet_pillow
from potstill.errors import DataError, MachineError

FORMAT = 1
"""Grows when what is written changes; an older entry is then decoded anew."""
CHUNK = 256
Progress = Callable[[int, int], None]


@dataclass
class Raw:
    """What a source says when it is read.

    Attributes:
        classes: names in the order of the labels.
        labels: (N,), int64.
        names: of the N pictures, for messages.
        parts: how many pictures each part has, in the order in which they come: train first, or ``all``.
        pictures: the N pictures, each as :func:`potstill.data.pictures.decode` takes it.
        notices: what was skipped.
    """

    classes: list[str]
    labels: np.ndarray
    names: list[str] | None
    parts: dict[str, int]
    pictures: Iterable[Any]
    notices: list[str] = field(default_factory=list)

    def name(self, i: int) -> str:
        return self.names[i] if self.names is not None else f"picture {i}"


@dataclass
class Store:
    """Decoded pictures.

    Attributes:
        images: (M, C, H, W), uint8, read-only.
        labels, ids: (M,), int64; an id is the place in the source, so ids have holes where a picture could not be read.
        digests: (M,), uint64; equal for equal pictures.
        meta: classes, parts, notices, content (sha256), bad (name, reason), names of the M pictures.
    """

    images: np.ndarray
    labels: np.ndarray
    ids: np.ndarray
    digests: np.ndarray
    meta: dict[str, Any]


def cached(
    root: Path,
    name: str,
    stamp: str | None,
    read: Callable[[], Raw],
    size: int | None,
    channels: int | None,
    progress: Progress | None = None,
) -> Store:
    """The decoded pictures of a source, from the cache or decoded now.

    Args:
        root: the cache folder.
        name: of the source, for people who look into the cache.
        stamp: what identifies the source; None where only its content does.
        read: reads the source.
        size, channels: see :func:`potstill.data.pictures.decode`.
        progress: called with (pictures done, pictures in all).

    Raises:
        DataError: no picture can be read, or they differ in size.
        MachineError: the disk is full.
    """
    label = "".join(c if c.isascii() and c.isalnum() else "-" for c in name)[-40:] or "data"
    key = hashlib.sha256(json.dumps([FORMAT, stamp, size, channels]).encode()).hexdigest()[:20]
    entry = None if stamp is None else root / f"{label}-{key}"
    if entry and (found := _open(entry)):
        return found
    tag = entry.name if entry else label
    with FileLock(root / f".{tag}.lock"):
        if entry and (found := _open(entry)):  # another process built it while this one waited
            return found
        for stale in root.glob(f".{tag}.part-*"):  # of a process that was killed: the lock is ours
            shutil.rmtree(stale, ignore_errors=True)
        part = root / f".{tag}.part-{secrets.token_hex(8)}"
        try:
            part.mkdir()
            content = _write(part, read(), size, channels, progress)
            entry = entry or root / f"{label}-{content[:20]}"
            if (found := _open(entry)) is None:
                shutil.rmtree(entry, ignore_errors=True)
                part.rename(entry)
                found = _open(entry)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise MachineError(
                    f"the disk of the cache is full: {root}", hint="POTSTILL_CACHE=/a/bigger/disk"
                ) from error
            raise
        finally:
            shutil.rmtree(part, ignore_errors=True)
    if found is None:
        raise MachineError(
            f"the cache does not give back what was written to it: {entry}", hint="POTSTILL_CACHE=/another/folder"
        )
    return found


def _open(entry: Path) -> Store | None:
    """The entry, or None where there is none or it is not whole."""
    try:
        meta = json.loads((entry / "meta.json").read_text("utf-8"))
        images = np.load(entry / "images.npy", mmap_mode="r", allow_pickle=False)
        labels, ids, digests = (np.load(entry / f"{n}.npy", allow_pickle=False) for n in ("labels", "ids", "digests"))
        whole = (
            meta["format"] == FORMAT
            and list(images.shape) == meta["shape"]
            and len(labels) == len(ids) == len(digests) == len(images)
        )
        return Store(images, labels, ids, digests, meta) if whole else None
    except (OSError, ValueError, KeyError, TypeError, EOFError):
        return None


def _write(folder: Path, raw: Raw, size: int | None, channels: int | None, progress: Progress | None) -> str:
    """Decode into ``folder``, ``meta.json`` last; gives the sha256 of the content."""
    whole = hashlib.sha256()
    ids: list[int] = []
    digests: list[bytes] = []
    bad: list[tuple[str, str]] = []
    notes: Counter[str] = Counter()
    shapes: dict[tuple[int, ...], str] = {}
    grey = 0
    with open(folder / "images.npy", "w+b") as file:
        for i, got in enumerate(_decoded(raw, size, channels, progress)):
            if isinstance(got, Exception):
                bad.append((raw.name(i), _reason(got)))
                continue
            shapes.setdefault(got.pixels.shape, raw.name(i))
            if len(shapes) > 3 or (len(shapes) > 1 and i >= CHUNK):
                break
            pixels = got.pixels.tobytes()
            if not ids:
                if len(raw.labels) * len(pixels) > shutil.disk_usage(folder).free:
                    raise OSError(errno.ENOSPC, "the pictures will not fit")
                _header(file, (len(raw.labels), *got.pixels.shape))
            digest = hashlib.sha256(pixels).digest()
            file.write(pixels)
            whole.update(digest)
            digests.append(digest[:8])
            ids.append(i)
            grey += got.grey
            notes.update(got.notes)
        _same_shape(shapes, raw, bad)
        shape = [len(ids), *next(iter(shapes))]
        _header(file, shape)
        _sync(file)
    if channels is None and grey == len(ids) and shape[1] == 3:
        shape[1] = 1
        _one_channel(folder / "images.npy", shape)
    labels = raw.labels[ids]
    for name, array in ("labels", labels), ("ids", np.array(ids)), ("digests", np.frombuffer(b"".join(digests), "<u8")):
        np.save(folder / f"{name}.npy", array)
    whole.update(
        json.dumps([shape, raw.classes, raw.parts]).encode()
        + labels.astype("<i8").tobytes()
        + np.array(ids, "<i8").tobytes()
    )
    notices = raw.notices + [f"{n} of {len(ids)} pictures converted: {note}" for note, n in sorted(notes.items())]
    if grey and (channels == 3 or (channels is None and grey < len(ids))):
        notices.append(f"{grey} of {len(ids)} pictures are grey: their channel is repeated")
    meta = {"format": FORMAT, "shape": shape, "classes": raw.classes, "parts": raw.parts, "content": whole.hexdigest()}
    with open(folder / "meta.json", "w", encoding="utf-8") as text:
        names = None if raw.names is None else [raw.names[i] for i in ids]
        json.dump(meta | {"notices": notices, "bad": bad, "names": names}, text)
        _sync(text)
    return whole.hexdigest()


def _decoded(
    raw: Raw, size: int | None, channels: int | None, progress: Progress | None
) -> Iterator[Decoded | Exception]:
    """Every picture in order, decoded in threads; the exception of one that cannot be read."""
    total, done = len(raw.labels), 0
    pictures = iter(raw.pictures)
    attempt = partial(_attempt, size=size, channels=channels)
    with quiet_pillow(), ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        while chunk := list(itertools.islice(pictures, CHUNK)):
            tasks = [chunk[i : i + 8] for i in range(0, len(chunk), 8)]  # a task costs as much as a tiny picture
            yield from itertools.chain.from_iterable(pool.map(attempt, tasks))
            done += len(chunk)
            if progress:
                progress(done, total)


def _attempt(task: list[Any], size: int | None, channels: int | None) -> list[Decoded | Exception]:
    got: list[Decoded | Exception] = []
    for picture in task:
        try:
            got.append(decode(picture, size, channels))
        except MemoryError:
            raise
        except Exception as error:  # Pillow raises OSError, SyntaxError, ValueError, struct.error, zlib.error ...
            got.append(error)
    return got


def _reason(error: Exception) -> str:
    return "not a picture" if isinstance(error, UnidentifiedImageError) else str(error) or type(error).__name__


def _same_shape(shapes: dict[tuple[int, ...], str], raw: Raw, bad: list[tuple[str, str]]) -> None:
    if not shapes:
        first = f": {bad[0][0]}: {bad[0][1]}" if bad else ""
        raise DataError(f"none of {len(raw.labels)} pictures can be read{first}")
    if len(shapes) > 1:
        seen = ", ".join(f"{'x'.join(map(str, s))} ({name})" for s, name in itertools.islice(shapes.items(), 3))
        side = min(s for shape in shapes for s in shape[-2:])
        raise DataError(
            f"pictures differ in size (channels x height x width): {seen}{' ...' if len(shapes) > 3 else ''}",
            why="a batch needs pictures of one size",
            hint=f"data.size={max(8, 1 << side.bit_length() - 1)} (the shorter side is scaled to it, then the centre cut out)",
        )


def _header(file: IO[bytes], shape: Iterable[int]) -> None:
    """Write or rewrite the head of a .npy file of uint8: numpy leaves room in it for another number of rows."""
    file.seek(0)
    np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": tuple(shape)})


def _one_channel(path: Path, shape: list[int]) -> None:
    """All pictures are grey: keep the first of three equal channels."""
    images = np.load(path, mmap_mode="r", allow_pickle=False)
    slim = path.with_name("slim.npy")
    with open(slim, "w+b") as file:
        _header(file, shape)
        for at in range(0, len(images), 4096):
            file.write(np.ascontiguousarray(images[at : at + 4096, :1]).tobytes())
        _sync(file)
    del images
    slim.replace(path)


def _sync(file: IO[Any]) -> None:
    file.flush()
    os.fsync(file.fileno())


def cache_root(cache_dir: str | os.PathLike[str] | None = None) -> Path:
    """``cache_dir`` or ``$POTSTILL_CACHE``; else ``~/.cache/potstill``, or a temporary folder where home is read-only.

    Raises:
        MachineError: it cannot be written to.
    """
    home, uid = Path(os.path.expanduser("~")), getattr(os, "getuid", lambda: "user")()
    named = cache_dir or os.environ.get("POTSTILL_CACHE")
    candidates = (
        [Path(named)] if named else [home / ".cache" / "potstill", Path(tempfile.gettempdir()) / f"potstill-{uid}"]
    )
    for root in candidates:
        try:
            folder = root / "data"
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder):
                return folder
        except OSError as error:
            reason = error
    raise MachineError(
        f"cannot write to the cache folder {candidates[-1]}: {reason}", hint="POTSTILL_CACHE=/a/folder/that/you/own"
    )
