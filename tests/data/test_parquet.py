"""Parquet files as Hugging Face ``datasets`` writes them."""

from __future__ import annotations

import io
import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from potstill.data import load
from potstill.errors import ConfigError, DataError, MachineError

from .conftest import noise

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")


def png(seed: int) -> bytes:
    file = io.BytesIO()
    Image.fromarray(noise(seed)).save(file, "PNG")
    return file.getvalue()


def write(
    path: Path, labels: list[Any], *, start: int = 0, names: list[str] | None = None, **columns: list[Any]
) -> Path:
    """A file with ``image`` (struct of bytes and path) and ``label``, and the metadata that ``datasets`` writes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pictures = [{"bytes": png(start + i), "path": f"{i}.png"} for i in range(len(labels))]
    table = pa.table({"image": pictures, "label": labels, **columns})
    features: dict[str, Any] = {"image": {"_type": "Image"}, "label": {"_type": "Value"}}
    if names:
        features["label"] = {"names": names, "_type": "ClassLabel"}
    meta = {"huggingface": json.dumps({"info": {"features": features}})}
    pq.write_table(table.replace_schema_metadata(meta), path, row_group_size=7)
    return path


def test_parts_names_and_pictures(tmp_path: Path) -> None:
    write(tmp_path / "data/train-00000-of-00002.parquet", [0, 1, 2] * 10, names=["ant", "bee", "cat"])
    write(tmp_path / "data/train-00001-of-00002.parquet", [2, 1, 0] * 10, start=30, names=["ant", "bee", "cat"])
    write(tmp_path / "data/validation-00000-of-00001.parquet", [0, 1], start=60, names=["ant", "bee", "cat"])
    write(tmp_path / "data/test-00000-of-00001.parquet", [2, 1, 0], start=70, names=["ant", "bee", "cat"])
    s = load(f"parquet:{tmp_path}")
    assert s.classes == ["ant", "bee", "cat"]
    assert (len(s.train), len(s.val), len(s.test)) == (60, 2, 3)
    assert s.train.labels.tolist() == [0, 1, 2] * 10 + [2, 1, 0] * 10
    assert s.test.ids.tolist() == [62, 63, 64]
    assert s.num_samples == 60
    assert np.array_equal(s.train.pictures([37])[0], noise(37).transpose(2, 0, 1))
    assert np.array_equal(s.test.pictures([1])[0], noise(71).transpose(2, 0, 1))
    assert s.train.name(31) == "train-00001-of-00002.parquet[1]"
    assert s.notices == []


def test_one_file_is_cut_in_three(tmp_path: Path) -> None:
    s = load(write(tmp_path / "mine.parquet", [0, 1] * 50))
    assert (len(s.train), len(s.val), len(s.test)) == (80, 10, 10)
    assert s.classes == ["0", "1"]


def test_parts_by_folder(tmp_path: Path) -> None:
    write(tmp_path / "default/train/0000.parquet", [0, 1] * 10)
    write(tmp_path / "default/test/0000.parquet", [0, 1], start=50)
    s = load(f"parquet:{tmp_path}")
    assert (len(s.train), len(s.val), len(s.test)) == (18, 2, 2)


def test_the_label_can_be_chosen(tmp_path: Path) -> None:
    file = write(tmp_path / "d.parquet", [0, 1, 2, 3] * 6, fine_label=[3, 2, 1, 0] * 6, coarse_label=[0, 0, 1, 1] * 6)
    s = load(file)
    assert s.classes == ["0", "1", "2", "3"]
    coarse = load(f"parquet:{file}?label=coarse_label")
    assert coarse.classes == ["0", "1"]
    table = pq.read_table(file)
    pq.write_table(table.drop(["label"]), tmp_path / "e.parquet")
    fine = load(tmp_path / "e.parquet")
    assert fine.all_labels[fine.train.ids[fine.train.ids % 4 == 0]].tolist() == [3] * int(
        (fine.train.ids % 4 == 0).sum()
    )
    with pytest.raises(DataError, match=r"'coarse'. Did you mean 'coarse_label'\? Columns: image"):
        load(f"parquet:{file}?label=coarse")
    with pytest.raises(ConfigError, match=r"no option 'lable'\. Did you mean 'label'"):
        load(f"parquet:{file}?lable=x")


def test_plain_binary_columns_and_text_labels(tmp_path: Path) -> None:
    table = pa.table({"img": [png(i) for i in range(20)], "label": ["dog", "cat"] * 10})
    pq.write_table(table, tmp_path / "d.parquet")
    s = load(tmp_path / "d.parquet")
    assert s.classes == ["cat", "dog"]
    assert s.shape == (3, 12, 12)
    assert all(s.train.labels == (s.train.ids + 1) % 2)


def test_missing_labels_are_none(tmp_path: Path) -> None:
    s = load(write(tmp_path / "d.parquet", [0, 1, None, -1] * 10))
    assert (s.train.labels == -1).sum() == 16
    assert s.classes == ["0", "1"]


def test_wrong_labels_name_the_first_row(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"label .*5.* of d\.parquet\[2\] .*0\.\.1"):
        load(write(tmp_path / "d.parquet", [0, 1, 5, 0], names=["a", "b"]))
    with pytest.raises(DataError, match=r"0\.5.* of f\.parquet\[0\]"):
        load(write(tmp_path / "f.parquet", [0.5, 1.0, 0.0]))


def test_files_that_hold_only_paths(tmp_path: Path) -> None:
    table = pa.table({"image": [{"bytes": None, "path": "/home/me/x.png"}] * 20, "label": [0, 1] * 10})
    pq.write_table(table, tmp_path / "d.parquet")
    with pytest.raises(DataError, match="holds no bytes of pictures") as error:
        load(tmp_path / "d.parquet")
    assert "to_parquet" in str(error.value)


def test_broken_pictures_in_a_file(tmp_path: Path) -> None:
    file = write(tmp_path / "d.parquet", [0, 1] * 20)
    pictures = pq.read_table(file).to_pydict()
    pictures["image"][4]["bytes"] = pictures["image"][4]["bytes"][:60]
    pq.write_table(pa.table(pictures), file)
    with pytest.raises(DataError, match=r"1 of 40 pictures cannot be read.*d\.parquet\[4\]"):
        load(file)
    s = load(file, max_bad=0.05)
    assert any("d.parquet[4]" in n for n in s.notices)


def test_not_parquet_and_not_there(tmp_path: Path) -> None:
    (tmp_path / "x.parquet").write_text("hello")
    with pytest.raises(DataError, match="not a parquet file"):
        load(tmp_path / "x.parquet")
    with pytest.raises(DataError, match=r"no such file.*Did you mean 'x\.parquet'"):
        load(f"parquet:{tmp_path}/y.parquet")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"no \.parquet files"):
        load(f"parquet:{tmp_path}/empty")
    write(tmp_path / "odd/train-0.parquet", [0, 1])
    write(tmp_path / "odd/rest.parquet", [0, 1])
    with pytest.raises(DataError, match=r"which part of the data rest\.parquet is"):
        load(f"parquet:{tmp_path}/odd")


def test_without_pyarrow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write(tmp_path / "d.parquet", [0, 1] * 10)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.delitem(sys.modules, "pyarrow.parquet")
    with pytest.raises(MachineError, match=r"potstill\[parquet\]"):
        load(file)


@pytest.mark.skipif(
    "POTSTILL_CIFAR100" not in os.environ, reason="POTSTILL_CIFAR100 does not name a folder of parquet files"
)
def test_real_cifar100() -> None:
    folder = Path(os.environ["POTSTILL_CIFAR100"])
    s = load(f"parquet:{folder}")
    assert (len(s.train), len(s.val), len(s.test)) == (45_000, 5_000, 10_000)
    assert s.shape == (3, 32, 32)
    assert s.num_samples == 50_000
    assert s.classes[:3] == ["apple", "aquarium_fish", "baby"]
    assert np.bincount(s.val.labels).tolist() == [50] * 100
    assert s.mean == pytest.approx([0.5071, 0.4865, 0.4409], abs=2e-3)
    assert s.std == pytest.approx([0.2673, 0.2564, 0.2762], abs=2e-3)
    assert any("7 of 10000 test pictures are training pictures too" in n for n in s.notices)
    again = load(f"parquet:{folder}", labels=1000, limit=20_000)
    assert np.bincount(again.train.labelled().labels).tolist() == [10] * 100
