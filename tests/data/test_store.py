"""The cache: decoded once, whole or not at all, and never trusted further than that."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from potstill.data import store as module
from potstill.data.store import Raw, Store, cache_root, cached
from potstill.errors import DataError, MachineError

from .conftest import noise, save


def raw(pictures: list[Any], labels: list[int] | None = None) -> Raw:
    n = len(pictures)
    return Raw(
        ["a", "b"],
        np.array(labels or [i % 2 for i in range(n)]),
        [f"p{i}" for i in range(n)],
        {"all": n},
        iter(pictures),
    )


def colours(n: int = 6) -> list[np.ndarray]:
    return [noise(i).transpose(2, 0, 1) for i in range(n)]


class Source:
    """Counts how often it is read."""

    def __init__(self, pictures: list[Any]) -> None:
        self.pictures, self.reads = pictures, 0

    def __call__(self) -> Raw:
        self.reads += 1
        return raw(self.pictures)


def get(
    root: Path, source: Any, stamp: str | None = "s", size: int | None = None, channels: int | None = None
) -> Store:
    return cached(root, "my data", stamp, source, size, channels)


def entry(root: Path) -> Path:
    (found,) = (p for p in root.iterdir() if p.is_dir())
    return found


def test_decoded_once_then_mapped(tmp_path: Path) -> None:
    source = Source(colours())
    first, second = get(tmp_path, source), get(tmp_path, source)
    assert source.reads == 1
    assert isinstance(second.images, np.memmap)
    assert not second.images.flags.writeable
    assert np.array_equal(second.images, np.stack(colours()))
    assert second.labels.tolist() == [0, 1] * 3
    assert second.ids.tolist() == list(range(6))
    assert second.meta == first.meta
    assert second.meta["parts"] == {"all": 6}


def test_every_option_has_its_own_entry(tmp_path: Path) -> None:
    source = Source(colours())
    shapes = [
        get(tmp_path, source, *a).images.shape for a in [("s",), ("t",), ("s", 6), ("s", None, 1), ("s", None, 3)]
    ]
    assert source.reads == 5
    assert shapes == [(6, 3, 12, 12), (6, 3, 12, 12), (6, 3, 6, 6), (6, 1, 12, 12), (6, 3, 12, 12)]


@pytest.mark.parametrize("harm", ["cut images", "no meta", "cut meta", "old format", "no labels", "pickle"])
def test_a_broken_entry_is_built_anew(tmp_path: Path, harm: str) -> None:
    source = Source(colours())
    get(tmp_path, source)
    folder = entry(tmp_path)
    meta = json.loads((folder / "meta.json").read_text())
    if harm == "cut images":
        content = (folder / "images.npy").read_bytes()
        (folder / "images.npy").write_bytes(content[:-100])
    elif harm == "no meta":
        (folder / "meta.json").unlink()
    elif harm == "cut meta":
        (folder / "meta.json").write_text(json.dumps(meta)[:-5])
    elif harm == "old format":
        (folder / "meta.json").write_text(json.dumps(meta | {"format": 0}))
    elif harm == "no labels":
        (folder / "labels.npy").unlink()
    else:  # an object array would need pickle
        np.save(folder / "labels.npy", np.array([{}] * 6, dtype=object))
    assert np.array_equal(get(tmp_path, source).images, np.stack(colours()))
    assert source.reads == 2
    get(tmp_path, source)
    assert source.reads == 2


def test_a_failed_build_leaves_nothing(tmp_path: Path) -> None:
    def pictures() -> Iterator[np.ndarray]:
        yield from colours(3)
        raise RuntimeError("the disk was pulled")

    with pytest.raises(RuntimeError, match="pulled"):
        get(tmp_path, lambda: Raw(["a"], np.zeros(6, int), None, {"all": 6}, pictures()))
    assert [p.name for p in tmp_path.iterdir() if p.is_dir()] == []


def test_what_a_killed_process_left_is_removed(tmp_path: Path) -> None:
    get(tmp_path, Source(colours()))
    folder = entry(tmp_path)
    folder.rename(tmp_path / f".{folder.name}.part-dead")
    get(tmp_path, Source(colours()))
    assert [p.name for p in tmp_path.iterdir() if p.is_dir()] == [folder.name]


def test_without_a_stamp_the_content_names_the_entry(tmp_path: Path) -> None:
    source = Source(colours())
    a, b = get(tmp_path, source, None), get(tmp_path, source, None)
    assert source.reads == 2  # only reading tells what it is
    assert len([p for p in tmp_path.iterdir() if p.is_dir()]) == 1
    assert a.meta == b.meta
    get(tmp_path, Source(colours(5)), None)
    assert len([p for p in tmp_path.iterdir() if p.is_dir()]) == 2


def test_grey_pictures_have_one_channel_only_where_all_are_grey(tmp_path: Path) -> None:
    grey = [noise(i, c=1)[None] for i in range(3)]
    got = get(tmp_path, Source(grey), "grey")
    assert np.array_equal(got.images, np.stack(grey))
    mixed = get(tmp_path, Source([*grey, *colours(2)]), "mixed")
    assert mixed.images.shape == (5, 3, 12, 12)
    assert np.array_equal(mixed.images[:3], np.repeat(np.stack(grey), 3, 1))
    assert mixed.meta["notices"] == ["3 of 5 pictures are grey: their channel is repeated"]


def test_bad_pictures_leave_holes_in_the_ids(tmp_path: Path) -> None:
    got = get(tmp_path, Source([colours()[0], b"broken", colours()[2], colours()[3]]))
    assert got.ids.tolist() == [0, 2, 3]
    assert got.labels.tolist() == [0, 0, 1]
    assert got.meta["names"] == ["p0", "p2", "p3"]
    assert got.images.shape[0] == 3
    ((name, reason),) = got.meta["bad"]
    assert name == "p1"
    assert reason == "not a picture"


def test_no_picture_can_be_read(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none of 2 pictures can be read: p0: not a picture"):
        get(tmp_path, Source([b"x", b"y"]))


def test_different_sizes_are_named_with_a_proposal(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"3x12x12 \(p0\), 3x20x17 \(p2\)") as error:
        get(tmp_path, Source([colours()[0], colours()[1], noise(9, 20, 17).transpose(2, 0, 1)]))
    assert error.value.hint is not None
    assert error.value.hint.startswith("data.size=8 ")
    assert get(tmp_path, Source([colours()[0], noise(9, 20, 17).transpose(2, 0, 1)]), size=8).images.shape == (
        2,
        3,
        8,
        8,
    )


def test_digests_are_of_the_pictures(tmp_path: Path) -> None:
    c = colours(3)
    got = get(tmp_path, Source([c[0], c[1], c[0], c[2]]))
    assert got.digests[0] == got.digests[2]
    assert len({*got.digests.tolist()}) == 3


def test_content_tells_pictures_labels_and_classes_apart(tmp_path: Path) -> None:
    sources = [raw(colours()), raw(colours()), raw(colours()[::-1]), raw(colours(), [0, 1, 0, 1, 1, 1])]
    sources += [Raw(["a", "c"], raw(colours()).labels, None, {"all": 6}, colours())]
    contents = [cached(tmp_path, "d", str(i), lambda s=s: s, None, None).meta["content"] for i, s in enumerate(sources)]  # type: ignore[misc]
    assert contents[0] == contents[1]
    assert len({*contents}) == 4


def test_many_pictures_keep_their_order_over_threads(tmp_path: Path) -> None:
    pictures = [np.full((3, 4, 4), i % 251, np.uint8) for i in range(1000)]
    seen: list[tuple[int, int]] = []
    got = cached(tmp_path, "d", "s", lambda: raw(pictures), None, None, lambda done, total: seen.append((done, total)))
    assert got.images[:, 0, 0, 0].tolist() == [i % 251 for i in range(1000)]
    assert seen == [(256, 1000), (512, 1000), (768, 1000), (1000, 1000)]


def test_a_full_disk_is_said_before_and_while_writing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module.shutil, "disk_usage", lambda p: type("Usage", (), {"free": 1000})())
    with pytest.raises(MachineError, match="full"):
        get(tmp_path, Source(colours()))
    monkeypatch.undo()

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(module, "_sync", full)
    with pytest.raises(MachineError, match="full"):
        get(tmp_path, Source(colours()))
    assert not [p for p in tmp_path.iterdir() if p.is_dir()]


def test_two_processes_build_once(tmp_path: Path) -> None:
    for i in range(40):
        save(tmp_path / "pets" / f"class{i % 2}" / f"{i}.png", i, 64, 64)
    code = """
import sys, time
from pathlib import Path
from potstill.data import store, sources
write = store._write
def slow(*a):
    with open(sys.argv[2] + '/builds', 'a') as f: f.write('x')
    time.sleep(0.5)
    return write(*a)
store._write = slow
print(sources.load(sys.argv[1], cache_dir=sys.argv[2]).fingerprint)
"""
    args = [sys.executable, "-c", code, str(tmp_path / "pets"), str(tmp_path)]
    both = [subprocess.Popen(args, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    said = {p.communicate(timeout=60)[0] for p in both}
    assert [p.returncode for p in both] == [0, 0]
    assert len(said) == 1
    assert (tmp_path / "builds").read_text() == "x"


def test_cache_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert cache_root(tmp_path / "a") == tmp_path / "a" / "data"
    monkeypatch.setenv("POTSTILL_CACHE", str(tmp_path / "b"))
    assert cache_root() == tmp_path / "b" / "data"
    monkeypatch.delenv("POTSTILL_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("USERPROFILE", str(tmp_path / "home"))
    assert cache_root() == tmp_path / "home" / ".cache" / "potstill" / "data"
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("HOME", str(tmp_path / "file"))  # a home that cannot be written to, even for root
    monkeypatch.setenv("USERPROFILE", str(tmp_path / "file"))
    monkeypatch.setattr(module.tempfile, "tempdir", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    assert cache_root().is_relative_to(tmp_path / "tmp")
    with pytest.raises(MachineError, match="cannot write"):
        cache_root(tmp_path / "file" / "cache")


def test_threads_and_warnings_are_left_as_they_were(tmp_path: Path) -> None:
    import warnings

    before = list(warnings.filters)
    get(tmp_path, Source(colours()))
    assert warnings.filters == before
    assert Image.MAX_IMAGE_PIXELS == 89478485


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs POSIX")
def test_entries_follow_the_umask(tmp_path: Path) -> None:
    old = os.umask(0o022)
    try:
        get(tmp_path, Source(colours()))
    finally:
        os.umask(old)
    assert entry(tmp_path).stat().st_mode & 0o777 == 0o755  # others can read a shared cache
