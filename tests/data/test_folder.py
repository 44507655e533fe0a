"""Folders of pictures, tidy and untidy."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from potstill.data import load
from potstill.data.folder import folder
from potstill.errors import DataError

from .conftest import Tree, save, snapshot


def test_class_folders(tree: Tree) -> None:
    root = tree({"dog": 3, "cat": 2, "ant": 1})
    raw = folder(root)[1]()
    assert raw.classes == ["ant", "cat", "dog"]
    assert raw.names == ["ant/000.png", "cat/000.png", "cat/001.png", "dog/000.png", "dog/001.png", "dog/002.png"]
    assert raw.labels.tolist() == [0, 1, 1, 2, 2, 2]
    assert raw.parts == {"all": 6}


@pytest.mark.parametrize("val", ["val", "valid", "validation", "VAL"])
def test_parts_come_train_first_and_synonyms_are_known(tree: Tree, val: str) -> None:
    raw = folder(tree({"test/a": 1, f"{val}/b": 2, "train/a": 2, "train/b": 2}))[1]()
    assert raw.parts == {"train": 4, "val": 2, "test": 1}
    assert raw.labels.tolist() == [0, 0, 1, 1, 1, 1, 0]


def test_a_class_that_one_part_lacks_keeps_its_number(tree: Tree) -> None:
    raw = folder(tree({"train/a": 2, "train/b": 2, "train/c": 2, "test/c": 3}))[1]()
    assert raw.labels.tolist() == [0, 0, 1, 1, 2, 2, 2, 2, 2]  # numbering test/ by itself would give 0


def test_a_class_that_training_does_not_know(tree: Tree) -> None:
    with pytest.raises(DataError, match=r"class 'katze' is in test/.* Did you mean 'katzen'"):
        folder(tree({"train/katzen": 2, "train/hund": 2, "test/katze": 1}))


def test_pictures_may_lie_deeper_in_any_script_and_with_spaces(tmp_path: Path) -> None:
    save(tmp_path / "a b" / "x" / "y z" / "1.PNG", 1)
    save(tmp_path / "a b" / "0.png", 2)
    save(tmp_path / "猫 Ünï" / f"{'long' * 50}.png", 3)
    raw = folder(tmp_path)[1]()
    assert raw.names is not None
    assert raw.names[:2] == ["a b/0.png", os.path.join("a b", "x", "y z", "1.PNG")]
    assert raw.classes == ["a b", "猫 Ünï"]


def test_names_that_are_no_text(tmp_path: Path) -> None:
    for i in range(12):
        save(tmp_path / "pets" / f"c{i % 2}" / f"{i}.png", i)
    try:
        os.rename(tmp_path / "pets/c0/0.png", os.fsencode(tmp_path / "pets/c0") + b"/\xff.png")
    except OSError:
        pytest.skip("this file system takes only text")
    s = load(tmp_path / "pets")
    assert len(s.train) + len(s.val) + len(s.test) == 12
    assert len(s.fingerprint) == 64
    names = [part.name(i) for part in (s.train, s.val, s.test) for i in range(len(part))]
    assert "c0/\\udcff.png" in names  # can be printed


def test_what_is_no_picture_is_skipped_and_counted(tree: Tree) -> None:
    root = tree({"a": 2, "b": 2})
    (root / "a" / "empty.png").touch()
    (root / "a" / ".DS_Store").write_text("x")
    (root / "a" / "notes.txt").write_text("x")
    (root / "b" / ".hidden").mkdir()
    save(root / "b" / ".hidden" / "1.png", 9)
    (root / ".git").mkdir()
    (root / "README.md").write_text("x")
    (root / "a" / "broken.png").symlink_to(root / "nowhere.png")
    raw = folder(root)[1]()
    assert len(raw.labels) == 4
    assert raw.notices == [
        "skipped: 1 broken link(s), 1 file(s) beside the class folders, 1 file(s) of 0 bytes, 1 file(s) that are no pictures, "
        "2 hidden file(s)"
    ]


def test_links_are_followed_but_not_in_circles(tree: Tree, tmp_path: Path) -> None:
    root = tree({"a": 2, "b": 2, "more": 3}, "pets")
    (root / "more").rename(tmp_path / "elsewhere")
    (root / "c").symlink_to(tmp_path / "elsewhere")
    (root / "a" / "loop").symlink_to(root / "a")
    (root / "b" / "up").mkdir()
    (root / "b" / "up" / "down").symlink_to(root / "b")
    raw = folder(root)[1]()
    assert np.bincount(raw.labels).tolist() == [2, 2, 3]
    assert raw.notices == ["skipped: 2 link(s) to a folder seen before"]
    (root / "a" / "self.png").symlink_to(root / "a" / "self.png")
    (root / "self").symlink_to(root / "self")
    assert folder(root)[1]().notices == ["skipped: 1 broken link(s), 2 link(s) to a folder seen before"]


def test_no_class_folders_shows_what_was_found_and_what_was_expected(tmp_path: Path) -> None:
    for i in range(4):
        save(tmp_path / f"{i}.png", i)
    with pytest.raises(DataError) as error:
        folder(tmp_path)
    assert "found 4 pictures (0.png, 1.png, 2.png ...)" in str(error.value)
    assert "PATH/train/CLASS/picture.png" in str(error.value)
    assert len(str(error.value).splitlines()) <= 6
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="found nothing"):
        folder(tmp_path / "empty")


def test_class_folders_without_pictures(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "x.txt").touch()
    with pytest.raises(DataError, match="no pictures in"):
        folder(tmp_path)


def test_one_empty_class_is_no_class(tree: Tree) -> None:
    root = tree({"a": 2, "b": 2}, "1")
    (root / "old").mkdir()
    with pytest.raises(DataError, match="class 'old' has no pictures"):
        folder(root)
    parts = tree({"train/a": 1, "train/b": 1, "test/a": 1}, "2")
    (parts / "test" / "b").mkdir()
    assert folder(parts)[1]().parts == {"train": 2, "test": 1}, "a part may lack a class"


def test_odd_trees(tree: Tree) -> None:
    with pytest.raises(DataError, match=r"found val/, test/ but no train/|found test/, val/ but no train/"):
        folder(tree({"val/a": 1, "test/a": 1}, "1"))
    with pytest.raises(DataError, match="two folders for one part"):
        folder(tree({"train/a": 1, "val/a": 1, "valid/a": 1}, "2"))
    with pytest.raises(DataError, match="a folder tset/ beside train/") as error:
        folder(tree({"train/a": 1, "tset/a": 1}, "3"))
    assert "Did you mean 'test'" in str(error.value)
    raw = folder(tree({"test": 1, "house": 2}, "4"))[1]()  # a class may be called so
    assert raw.classes == ["house", "test"]


def test_the_stamp_sees_names_sizes_and_times(tree: Tree) -> None:
    root = tree({"a": 2, "b": 2})
    stamps = [folder(root)[0], folder(root)[0]]
    assert stamps[0] == stamps[1]
    os.utime(root / "a" / "000.png", ns=(1, 1))
    stamps.append(folder(root)[0])
    (root / "a" / "000.png").rename(root / "a" / "9.png")
    stamps.append(folder(root)[0])
    (root / "a").rename(root / "z")
    stamps.append(folder(root)[0])
    assert len({*stamps}) == 4
    moved = root.rename(root.with_name("moved"))
    assert folder(moved)[0] == stamps[-1]  # where the folder lies does not count


def test_files_of_the_user_are_never_changed(tree: Tree) -> None:
    root = tree({"a": 12, "b": 12})
    (root / "a" / "000.png").write_bytes((root / "a" / "000.png").read_bytes()[:-30])
    before = snapshot(root)
    load(root, max_bad=0.1)
    assert snapshot(root) == before
    assert len(before) == 24


def test_many_files_are_listed_quickly(tmp_path: Path) -> None:
    import time

    for c in "ab":
        (tmp_path / c).mkdir()
        for i in range(5000):
            (tmp_path / c / f"{i}.png").write_bytes(b"x")
    start = time.process_time()
    assert len(folder(tmp_path)[1]().labels) == 10_000
    assert time.process_time() - start < 2
