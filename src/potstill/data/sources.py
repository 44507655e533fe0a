"""``load``: from what the user says to the data of a task."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import parse_qsl

import numpy as np

from potstill.data import split
from potstill.data.arrays import ArrayData, Data, Splits
from potstill.data.cifar import cifar
from potstill.data.folder import folder, missing
from potstill.data.parquet import parquet
from potstill.data.store import Progress, Raw, Store, cache_root, cached
from potstill.errors import ConfigError, DataError, MachineError, did_you_mean

SOURCES = {
    "digits": "1,797 handwritten digits, 1x8x8, that come with scikit-learn",
    "folder:PATH": "PATH/CLASS/picture.png, or PATH/train/CLASS/picture.png with val/ and test/ beside it",
    "parquet:PATH": "parquet files in the image/label layout of Hugging Face; ?label=COLUMN&image=COLUMN",
    "cifar10:PATH": "the official Python archive, or the folder it gives",
    "cifar100:PATH": "the official Python archive, or the folder it gives; ?label=coarse",
}
"""Every source that a text can name, and what it is."""
TEST_SHARE = {"digits": 0.3}
"""Share of a source without parts that becomes test data; 0.1 where it is not here."""


class Asked(NamedTuple):
    """A source as the user wrote it: ``kind:path?option=value``."""

    kind: str
    path: Path
    options: dict[str, str]


def load(
    spec: Any,
    *,
    size: int | None = None,
    channels: int | None = None,
    val: float = 0.1,
    max_bad: float = 0.01,
    labels: int | None = None,
    limit: int | None = None,
    seed: int = 0,
    strict: bool = False,
    cache_dir: str | os.PathLike[str] | None = None,
    download: bool = False,
    progress: Progress | None = None,
) -> Splits:
    """Load the data of a task. Files are only read; pictures are decoded once and kept in a cache.

    Args:
        spec: one of :data:`SOURCES`, the path of a folder of pictures or of a parquet file, a dataset of (picture, label), a pair
            or triple of datasets (train, val[, test]), or :class:`Splits`, which are given back as they are.
        size: side of the square pictures, in pixels: the shorter side is brought to it (bilinear, antialiased), then the centre
            is cut out. None: as they are, and they must be of one size.
        channels: 1 or 3. None: 3, or 1 where all pictures are grey.
        val: share of the training pictures that become validation data, where the source has none. A source without parts is
            cut in train, val and test, with 0.1 for test (digits: 0.3). Cuts are stratified and seeded.
        max_bad: share of the pictures that may be unreadable; these are left out and named.
        labels: keep the labels of so many training pictures only, hide the others (y = -1); stratified and seeded.
        limit: keep so many training pictures; stratified and seeded.
        seed: of cuts and choices.
        strict: refuse validation or test pictures that are training pictures too.
        cache_dir: default ``$POTSTILL_CACHE``, else ``~/.cache/potstill``, else a temporary folder.
        download: fetch a CIFAR archive that is not there. Nothing else is ever fetched.
        progress: called with (pictures decoded, pictures in all).

    Raises:
        ConfigError: an unknown source, or a setting out of range.
        DataError: the data cannot be used.
        MachineError: disk, permission, or a package that is not installed.
        RefusedError: a file that would run code.
    """
    if isinstance(spec, Splits):
        return spec
    _check(size, channels, val, max_bad)
    root = cache_root(cache_dir)
    notices: list[str] = []
    digests = None
    parts: dict[str, Data]
    if isinstance(spec, str | os.PathLike):
        asked = parse(os.fspath(spec))
        source, name = os.fspath(spec), asked.kind
        try:
            stamp, read = _reader(asked, download)
        except PermissionError as error:
            raise MachineError(f"no permission to read {error.filename}", where=source) from error
        store = cached(root, asked.path.name or name, f"{name} {stamp}", read, size, channels, progress)
    else:
        from potstill.data.datasets import from_datasets

        given = list(spec) if isinstance(spec, tuple | list) else [spec]
        if not 1 <= len(given) <= 3 or not all(hasattr(d, "__getitem__") and hasattr(d, "__len__") for d in given):
            known = f"{', '.join(SOURCES)}, a folder, or one to three datasets of (picture, label)"
            raise ConfigError(f"data must be {known}; got {type(spec).__name__}")
        source = name = type(given[0]).__name__
        raw, classes, notices = from_datasets(given, size, channels)
        if isinstance(raw, Raw):
            store = cached(root, name, None, lambda: raw, size, channels, progress)
        else:
            store = None
            parts = dict(raw)
    if store is not None:
        _refuse_bad(store, max_bad)
        parts, classes, digests = _parts(store), store.meta["classes"], store.digests
        notices = [*store.meta["notices"], *_bad_notice(store)]
    train, validation, test, words, more = split.divide(parts, val, TEST_SHARE.get(name, 0.1), seed)
    train, hidden = split.thin(train, labels, limit, seed)
    notices += [*more, *hidden, *split.odd_classes(train, classes)]
    if digests is not None:
        for what, part in {"validation": validation, "test": test}.items():
            if what == "validation" or test is not validation:
                notices += split.overlap(train, part, digests, what, strict)
    whole = parts["all"] if "all" in parts else parts["train"]
    return Splits(train, validation, test, classes, source, words, notices, int(whole.ids.max()) + 1)


def parse(spec: str) -> Asked:
    """Read ``kind:path?option=value``, or the path of something that exists.

    Raises:
        ConfigError: an unknown kind of source, or options where there are none.
        DataError: a path that does not exist.
    """
    kind, colon, rest = spec.partition(":")
    kinds = {s.partition(":")[0] for s in SOURCES}
    if kind not in kinds or (kind != "digits" and not colon):
        path = Path(spec).expanduser()
        if path.exists():
            return Asked("parquet" if path.suffix == ".parquet" else "folder", path, {})
        if colon and len(kind) > 1 and kind.isidentifier():
            raise ConfigError(
                f"no data source {kind!r}.{did_you_mean(kind, kinds)} Known: {', '.join(SOURCES)}, or a folder.",
                hint="potstill list data",
            )
        if kind in kinds:
            raise ConfigError(f"{kind} needs a path: {kind}:PATH")
        raise missing(path, tuple(SOURCES))
    options: dict[str, str] = {}
    if "?" in rest and not Path(rest).expanduser().exists():
        rest, _, query = rest.rpartition("?")
        options = dict(parse_qsl(query, keep_blank_values=True))
    allowed = {"parquet": {"label", "image"}, "cifar100": {"label"}}.get(kind, set())
    for key in {*options} - allowed:
        raise ConfigError(f"{kind} has no option {key!r}.{did_you_mean(key, allowed)}", where=spec)
    return Asked(kind, Path(rest).expanduser(), options)


def _reader(asked: Asked, download: bool) -> tuple[str, Callable[[], Raw]]:
    if asked.kind == "digits":
        return "scikit-learn", _digits
    if asked.kind == "folder":
        return folder(asked.path)
    if asked.kind == "parquet":
        return parquet(asked.path, **asked.options)
    return cifar(asked.kind, asked.path, **asked.options, download=download)


def _digits() -> Raw:
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    pictures = np.rint(x.reshape(-1, 1, 8, 8) * (255 / 16)).astype(np.uint8)
    return Raw([str(i) for i in range(10)], y, None, {"all": len(y)}, pictures)


def _parts(store: Store) -> dict[str, Data]:
    """The parts of a store; the id of a picture is its place in the source."""
    meta = store.meta
    data = ArrayData(store.images, store.labels, store.ids, names=meta["names"], content=meta["content"])
    ends = np.cumsum([0, *meta["parts"].values()])
    return {
        p: data.subset((store.ids >= a) & (store.ids < b))
        for p, a, b in zip(meta["parts"], ends, ends[1:], strict=False)
    }


def _refuse_bad(store: Store, max_bad: float) -> None:
    bad, n = store.meta["bad"], sum(store.meta["parts"].values())
    if len(bad) > max_bad * n:
        raise DataError(
            f"{len(bad)} of {n} pictures cannot be read, more than max_bad = {max_bad:.2%}: {_named(bad)}",
            hint="mend or remove them, or allow more: data.max_bad=",
        )


def _bad_notice(store: Store) -> list[str]:
    bad = store.meta["bad"]
    return [f"{len(bad)} pictures cannot be read and are left out: {_named(bad)}"] if bad else []


def _named(bad: Sequence[Sequence[str]]) -> str:
    return "; ".join(f"{name} ({reason[:100]})" for name, reason in bad[:3]) + (" ..." if len(bad) > 3 else "")


def _check(size: int | None, channels: int | None, val: float, max_bad: float) -> None:
    for name, value, right, what in (
        ("size", size, size is None or size > 0, "a number of pixels"),
        ("channels", channels, channels in (None, 1, 3), "1 or 3"),
        ("val", val, 0 < val < 0.5, "a share between 0 and 0.5"),
        ("max_bad", max_bad, 0 <= max_bad <= 1, "a share in [0, 1]"),
    ):
        if not right:
            raise ConfigError(f"{name} must be {what}, got {value!r}", where=f"data.{name}")
