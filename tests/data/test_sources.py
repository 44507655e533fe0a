"""``load`` as a user meets it: the rows 8 to 17 of the table of bad inputs, and what good data give."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from potstill.data import load
from potstill.data.sources import parse
from potstill.errors import ConfigError, DataError, MachineError, PotstillError

from .conftest import Tree, noise, save


def test_digits() -> None:
    s = load("digits")
    assert (len(s.train), len(s.val), len(s.test)) == (1078, 180, 539)
    assert s.shape == (1, 8, 8)
    assert s.classes == [str(i) for i in range(10)]
    assert s.num_samples == 1797
    assert (s.train.store.min(), s.train.store.max()) == (0, 255)
    assert np.abs(np.bincount(s.test.labels) / 539 - np.bincount(s.train.labels) / 1078).max() < 0.002
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    assert np.array_equal(s.test.labels, y[s.test.ids])
    assert np.abs(s.test.images.reshape(-1, 64) - x[s.test.ids] * 255 / 16).max() <= 0.5
    assert s.mean == pytest.approx([x[s.train.ids].mean() / 16], abs=1e-3)
    assert "60% / 10% / 30%" in s.split
    assert s.notices == []


def test_seed_labels_and_limit() -> None:
    a, b = load("digits"), load("digits", seed=1)
    assert a.fingerprint == load("digits").fingerprint != b.fingerprint
    assert set(a.test.ids) != set(b.test.ids)
    few = load("digits", labels=30, limit=500)
    assert len(few.train) == 500
    assert np.bincount(few.train.labelled().labels).tolist() == [3] * 10
    assert (few.all_labels >= 0).sum() == 30
    assert len(few.all_labels) == few.num_samples == 1797
    assert np.array_equal(few.test.ids, a.test.ids)  # the test data are the same
    assert any("labels of 30 of 500" in n for n in few.notices)
    assert few.fingerprint != a.fingerprint


def test_a_folder_is_cut_in_three(tree: Tree) -> None:
    s = load(tree({"cat": 30, "dog": 20}))
    assert (len(s.train), len(s.val), len(s.test)) == (40, 5, 5)
    assert np.bincount(s.test.labels).tolist() == [3, 2]
    assert s.split == "stratified 80% / 10% / 10% (train / val / test), seed 0"
    assert s.train.name(0) == os.path.join("cat", "000.png") or s.train.ids[0] > 0
    assert np.array_equal(s.train.pictures([0])[0], noise(int(s.train.ids[0]) + 1).transpose(2, 0, 1))


def test_all_grey_is_one_channel_and_can_be_forced(tree: Tree) -> None:
    root = tree({"a": 12, "b": 12}, c=1)
    assert load(root).shape == (1, 12, 12)
    assert load(root, channels=3).shape == (3, 12, 12)
    save(root / "a" / "colour.png", 99)
    mixed = load(root)
    assert mixed.shape == (3, 12, 12)
    assert any("24 of 25 pictures are grey" in n for n in mixed.notices)
    assert load(root, channels=1).shape == (1, 12, 12)


def said(error: PotstillError, code: int = 3) -> str:
    text = str(error)
    assert error.exit_code == code
    assert len(text.splitlines()) <= 6
    assert "Traceback" not in text
    return text


def test_row_8_a_missing_path_names_the_nearest_and_fetches_nothing(
    tree: Tree, monkeypatch: pytest.MonkeyPatch
) -> None:
    import socket

    def never(*_: Any) -> None:
        raise AssertionError("went to the network")

    monkeypatch.setattr(socket, "socket", never)
    root = tree({"a": 2, "b": 2}, "flowers")
    for spec in (f"folder:{root.parent}/flwers", str(root.parent / "flwers"), root.parent / "flwers"):
        with pytest.raises(DataError, match=r"no such file or folder: .*flwers\. Did you mean 'flowers'\?") as error:
            load(spec)
        assert str(root.parent) in said(error.value)
    with pytest.raises(DataError, match="Did you mean 'digits'"):
        load("digit")
    with pytest.raises(DataError, match="nearest folder that exists") as error:
        load("/nonexist/deep/down")
    said(error.value)


def test_unknown_sources_and_options() -> None:
    with pytest.raises(ConfigError, match=r"no data source 'fodler'\. Did you mean 'folder'"):
        load("fodler:somewhere")
    with pytest.raises(ConfigError, match="no data source 'hf'"):
        load("hf:cifar10")
    with pytest.raises(ConfigError, match="cifar10 needs a path"):
        load("cifar10")
    for wrong in ({"size": 0}, {"channels": 2}, {"val": 0.0}, {"val": 0.6}, {"max_bad": 2.0}):
        with pytest.raises(ConfigError, match=f"data.{next(iter(wrong))}"):
            load("digits", **wrong)  # type: ignore[arg-type]


def test_parse(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("plain").mkdir()
    Path("odd?label=x").mkdir()
    Path("folder").mkdir()
    assert parse("plain").kind == "folder"
    assert parse("folder").path == Path("folder")  # a folder of that name, not a source without a path
    assert parse("parquet:a/b?label=x&image=y") == ("parquet", Path("a/b"), {"label": "x", "image": "y"})
    assert parse("parquet:odd?label=x").options == {}
    assert parse("~").path == Path.home()
    assert parse("digits").kind == "digits"
    with pytest.raises(DataError, match="C:"):
        parse("C:\\pictures")


def test_a_folder_that_may_not_be_read(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tree({"a": 2, "b": 2})
    real = os.scandir

    def locked(path: Any) -> Any:
        if str(path) == str(root / "b"):
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", locked)
    with pytest.raises(MachineError, match=r"no permission to read .*b") as error:
        load(root)
    said(error.value, 6)


def test_row_9_no_class_folders(tmp_path: Path) -> None:
    save(tmp_path / "1.png", 1)
    with pytest.raises(DataError, match="no class folders"):
        load(tmp_path)


def test_row_10_one_class_and_tiny_classes(tree: Tree) -> None:
    with pytest.raises(DataError, match="two classes or more, found only 'a'"):
        load(tree({"a": 20}, "one"))
    s = load(tree({"a": 20, "b": 20, "c": 1}, "tiny"))
    assert any("only one training picture" in n and "c" in n for n in s.notices)
    assert 2 in s.train.labels


def test_row_12_overlap(tree: Tree) -> None:
    root = tree({"train/a": 10, "train/b": 10, "test/a": 4, "test/b": 4})
    for i in range(4):
        (root / "test" / "a" / f"{i:03d}.png").write_bytes((root / "train" / "b" / f"00{i}.png").read_bytes())
    s = load(root, val=0.05)
    (notice,) = [n for n in s.notices if "test pictures are training pictures" in n]
    assert notice.startswith(("4 of 8", "3 of 8"))  # one of them may have become validation data
    assert os.path.join("test", "a", "000.png") + " = " + os.path.join("train", "b", "000.png") in notice
    with pytest.raises(DataError, match="of 8 test pictures") as error:
        load(root, val=0.05, strict=True)
    said(error.value)


def test_row_13_broken_pictures(tree: Tree) -> None:
    root = tree({"a": 20, "b": 20})
    for i in range(4):
        file = root / "b" / f"00{i}.png"
        file.write_bytes(file.read_bytes()[: -40 * (i + 1)])
    with pytest.raises(DataError, match=r"4 of 40 pictures cannot be read, more than max_bad = 1\.00%") as error:
        load(root)
    text = said(error.value)
    assert all(os.path.join("b", f"00{i}.png") in text for i in range(3))
    assert "003.png" not in text
    s = load(root, max_bad=0.1)
    assert len(s.train) + len(s.val) + len(s.test) == 36
    assert any(n.startswith("4 pictures cannot be read") for n in s.notices)
    for part in (s.train, s.val, s.test):  # names, labels and pixels still belong together
        for i in range(len(part)):
            kind, number = os.path.split(part.name(i))
            seed = int(number[:3]) + 1 + (20 if kind == "b" else 0)
            assert part.labels[i] == "ab".index(kind)
            assert part.ids[i] == seed - 1
            assert np.array_equal(part.pictures([i])[0], noise(seed).transpose(2, 0, 1))


def test_row_15_sizes(tree: Tree) -> None:
    root = tree({"a": 12, "b": 12})
    save(root / "b" / "wide.png", 99, 20, 30)
    with pytest.raises(DataError, match=r"3x12x12 .*3x20x30 \(b.wide\.png\)") as error:
        load(root)
    assert "data.size=8" in said(error.value)
    assert load(root, size=10).shape == (3, 10, 10)


def test_conversions_are_counted(tree: Tree) -> None:
    root = tree({"a": 12, "b": 12})
    save(root / "a" / "clear.png", 50, c=4)
    s = load(root)
    assert "1 of 25 pictures converted: transparency laid over white" in s.notices


def test_paths_with_spaces_and_relative_ones(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tree({"a": 12, "b": 12}, "my pets ü")
    monkeypatch.chdir(root.parent)
    by_name = load("folder:my pets ü")
    assert by_name.fingerprint == load(root).fingerprint
    assert by_name.source == "folder:my pets ü"


def test_a_changed_file_is_seen(tree: Tree) -> None:
    root = tree({"a": 12, "b": 12})
    before = load(root)
    save(root / "a" / "000.png", 500)
    after = load(root)
    assert after.fingerprint != before.fingerprint
    assert any(
        np.array_equal(p, noise(500).transpose(2, 0, 1))
        for p in (*after.train.images, *after.val.images, *after.test.images)
    )


def test_progress_is_told(tree: Tree) -> None:
    seen: list[tuple[int, int]] = []
    root = tree({"a": 12, "b": 12})
    load(root, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(24, 24)]
    load(root, progress=lambda done, total: seen.append((done, total)))
    assert len(seen) == 1  # from the cache


def test_locale_c_and_no_home(tree: Tree) -> None:
    import subprocess
    import sys

    root = tree({"käse": 12, "b": 12})
    code = (
        "import sys; from potstill.data import load; s = load(sys.argv[1]);"
        "assert (len(s.train), len(s.classes[1])) == (20, 4)"
    )
    env = {k: v for k, v in os.environ.items() if k != "HOME" and not k.startswith("LC_")}
    subprocess.run([sys.executable, "-c", code, str(root)], check=True, env=env | {"LC_ALL": "C", "LANG": "C"})
