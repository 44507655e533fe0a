"""Splits of arrays: nothing is copied, labels are checked, ids stay."""

from __future__ import annotations

import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from potstill.data.arrays import ArrayData, Splits, to_labels
from potstill.errors import DataError


def data(n: int = 12, classes: int = 3, seed: int = 0) -> ArrayData:
    rng = np.random.default_rng(seed)
    return ArrayData(rng.integers(0, 256, (n, 3, 4, 5), dtype=np.uint8), np.arange(n) % classes, np.arange(n) + 100)


def test_subset_by_mask_and_by_places() -> None:
    d = data()
    odd = d.subset(d.labels == 1)
    assert odd.ids.tolist() == [101, 104, 107, 110]
    two = odd.subset([3, 0])  # a subset of a subset, in another order
    assert two.ids.tolist() == [110, 101]
    assert two.labels.tolist() == [1, 1]
    assert np.array_equal(two.pictures([0, 1]), d.store[[10, 1]])
    assert np.array_equal(two.images, d.store[[10, 1]])
    assert np.shares_memory(two.store, d.store)
    assert d.ids.tolist() == list(range(100, 112))  # the whole is as it was


def test_images_of_neighbours_are_not_copied() -> None:
    d = data()
    assert np.shares_memory(d.subset(np.arange(3, 9)).images, d.store)
    assert np.array_equal(d.subset(np.arange(3, 9)).images, d.store[3:9])
    assert d.subset(np.zeros(12, bool)).images.shape == (0, 3, 4, 5)


def test_labelled_and_relabelled() -> None:
    d = data(4)
    half = d.relabelled(np.array([0, -1, 2, -1]))
    assert half.labelled().ids.tolist() == [100, 102]
    assert d.labels.tolist() == [0, 1, 2, 0]
    assert ArrayData(d.store).labels.tolist() == [-1] * 4


def test_a_mapped_file_is_not_copied_to_another_process(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.random.default_rng(0).integers(0, 256, (500, 3, 32, 32), dtype=np.uint8))
    d = ArrayData(np.load(tmp_path / "x.npy", mmap_mode="r"), np.arange(500) % 5).subset([7, 3])
    sent = pickle.dumps(d)
    assert len(sent) < 5000
    there = pickle.loads(sent)
    assert np.array_equal(there.images, d.images)
    assert there.ids.tolist() == [7, 3]
    assert isinstance(there.store.base, np.memmap)
    plain = pickle.loads(pickle.dumps(data().subset([1, 2])))
    assert np.array_equal(plain.images, data().images[1:3])


def test_names_follow_the_rows() -> None:
    d = data(4)
    assert d.name(2) == "#102"
    named = ArrayData(d.store, d.labels, names=["a", "b", "c", "d"]).subset([3, 1])
    assert [named.name(0), named.name(1)] == ["d", "b"]


def test_wrong_arrays_are_refused() -> None:
    x = np.zeros((4, 3, 8, 8), np.uint8)
    with pytest.raises(DataError, match="uint8"):
        ArrayData(x.astype(np.float32))
    with pytest.raises(DataError, match="uint8"):
        ArrayData(x[0])
    with pytest.raises(DataError, match="3 labels"):
        ArrayData(x, [0, 1, 2])


def test_labels_out_of_range_name_the_first_sample() -> None:
    with pytest.raises(DataError, match=r"label .*7.* of b\.png .*0\.\.2.*1 more"):
        to_labels([0, 7, -100, 2], 3, ["a.png", "b.png", "c.png", "d.png"])
    with pytest.raises(DataError, match=r"-100.* of picture 1 "):
        to_labels([0, -100])
    with pytest.raises(DataError, match=r"0\.5.* of picture 0 "):
        to_labels(np.array([0.5, 1.0]))
    with pytest.raises(DataError, match="shape"):
        to_labels(np.zeros((2, 2), int))
    assert to_labels(np.array([2, -1], dtype=np.int8), 3).dtype == np.int64


def test_splits_know_their_ids_labels_and_moments() -> None:
    d = data(12)
    s = Splits(d.subset([0, 5, 11]).relabelled(np.array([0, -1, 2])), d.subset([1]), d.subset([2]), ["a", "b", "c"])
    assert s.num_samples == 112
    assert s.all_labels[[100, 105, 111]].tolist() == [0, -1, 2]
    assert (s.all_labels >= 0).sum() == 2  # neither hidden labels nor those of validation pictures are told
    assert s.shape == (3, 4, 5)
    x = d.store[[0, 5, 11]] / 255
    assert s.mean == pytest.approx(x.mean((0, 2, 3)), abs=1e-7)
    assert s.std == pytest.approx(x.std((0, 2, 3)), abs=1e-6)


def test_fingerprint_is_of_the_content() -> None:
    def make(**change: object) -> str:
        d = data(12, seed=int(change.get("seed", 0)))  # type: ignore[call-overload]
        train = d.subset(change.get("train", [0, 1, 2]))  # type: ignore[arg-type]
        train = train.relabelled(np.array(change.get("labels", [0, 1, 2])))
        return Splits(
            train, d.subset([3]), d.subset([4]), list(change.get("classes", "abc")), source=str(change)
        ).fingerprint  # type: ignore[call-overload]

    same = make()
    assert make() == same
    assert len(same) == 64
    others = [make(seed=1), make(train=[0, 1, 5]), make(labels=[0, 1, -1]), make(classes="abd")]
    assert len({same, *others}) == 5


def test_loading_imports_no_torch(tmp_path: Path) -> None:
    code = (
        "import sys; from potstill.data import load; s = load('digits', cache_dir=sys.argv[1]);"
        "assert len(s.train) == 1078; assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True)
