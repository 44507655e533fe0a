"""Stores: filled bit by bit, killed, damaged, read by several processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from filelock import FileLock

from potstill.cache import Store, read_meta
from potstill.errors import ConfigError, DataError, MachineError

IDS = np.array([2, 3, 5, 7, 11])


def make(folder: Path, write: bool = True, views: int = 2, size: int = 16) -> Store:
    return Store(folder, IDS, views, size, {"key": "k"}, write)


def content(rows: np.ndarray, size: int = 16) -> np.ndarray:
    return (rows[:, None] * 37 + np.arange(size) * 11).astype(np.uint8)


def fill(store: Store, rows: np.ndarray | None = None) -> None:
    rows = np.arange(len(store.sums)) if rows is None else rows
    store.write(rows, content(rows, store.size))


def test_records_lie_by_view_and_sample_and_come_back(tmp_path: Path) -> None:
    store = make(tmp_path / "s")
    rows = store.rows(np.array([7, 2, 11]), np.array([0, 1, 1]))
    assert rows.tolist() == [3, 5, 9]
    assert not store.filled(rows).any()
    store.write(rows, content(rows))
    records, good = store.read(np.array([5, 4, 9]))
    assert good.tolist() == [True, False, True]
    assert np.array_equal(records[good], content(np.array([5, 9])))
    with pytest.raises(DataError, match="no sample 4"):
        store.rows(np.array([4]), np.array([0]))
    with pytest.raises(DataError, match="no sample 99"):
        store.rows(np.array([99]), np.array([0]))
    with pytest.raises(DataError, match="view 2"):
        store.rows(np.array([2]), np.array([2]))


def test_a_store_is_finished_by_its_last_record_and_then_needs_no_lock(tmp_path: Path) -> None:
    store = make(tmp_path / "s")
    fill(store, np.arange(9))
    assert not store.finished
    assert not read_meta(tmp_path / "s")["finished"]
    fill(store, np.array([9]))
    assert store.finished
    assert not store.writing
    assert read_meta(tmp_path / "s")["finished"]
    [lock.unlink() for lock in (tmp_path / "s").glob(".*.lock")]
    others = [make(tmp_path / "s") for _ in range(2)]
    assert not any(o.writing for o in others)
    assert all(o.read(np.arange(10))[1].all() and o.verify() == 10 for o in others)
    assert not list((tmp_path / "s").glob(".*.lock"))


def test_one_process_writes_and_others_read_what_is_there(tmp_path: Path) -> None:
    writer, reader = make(tmp_path / "s"), make(tmp_path / "s")
    assert writer.writing
    assert not reader.writing
    fill(reader)
    assert not writer.filled(np.arange(10)).any(), "a reader wrote"
    fill(writer, np.arange(4))
    assert reader.read(np.arange(10))[1].sum() == 4
    writer.close()
    heir = make(tmp_path / "s")
    assert heir.writing
    assert heir.left == 6
    fill(heir, np.arange(2, 10))
    assert heir.finished


def test_a_half_written_record_of_an_unfinished_store_counts_as_missing(tmp_path: Path) -> None:
    store = make(tmp_path / "s")
    fill(store, np.arange(6))
    store.records[2, 3] ^= 1
    assert store.read(np.arange(6))[1].tolist() == [True, True, False, True, True, True]


@pytest.mark.parametrize("byte", [0, 7, 15])
def test_a_damaged_byte_is_found_and_named(tmp_path: Path, byte: int) -> None:
    fill(make(tmp_path / "s"))
    at = 8 * 16 + byte  # row 8: view 1 of the fourth sample
    with open(tmp_path / "s" / "records.bin", "r+b") as file:
        file.seek(at)
        old = file.read(1)
        file.seek(at)
        file.write(bytes([old[0] ^ 0x10]))
    store = make(tmp_path / "s")
    assert store.read(np.arange(8))[1].all()
    with pytest.raises(DataError, match="view 1 of sample 7"):
        store.read(np.array([1, 8]))
    with pytest.raises(DataError, match="view 1 of sample 7"):
        store.verify()


def test_damaged_sums_are_found(tmp_path: Path) -> None:
    fill(make(tmp_path / "s"))
    with open(tmp_path / "s" / "sums.bin", "r+b") as file:
        file.write(bytes(8))
    store = make(tmp_path / "s")
    with pytest.raises(DataError, match="view 0 of sample 2"):
        store.read(np.array([0]))
    with pytest.raises(DataError, match="checksums"):
        store.verify()


def test_swapped_records_are_found(tmp_path: Path) -> None:
    store = make(tmp_path / "s")
    fill(store, np.arange(5))
    for array in (store.records, store.sums):
        array[[0, 1]] = array[[1, 0]]
    assert store.read(np.arange(5))[1].tolist() == [False, False, True, True, True]


def test_another_meaning_is_refused(tmp_path: Path) -> None:
    fill(make(tmp_path / "s"), np.arange(3))
    for changed in ({"views": 3}, {"size": 24}):
        with pytest.raises(ConfigError, match=next(iter(changed))):
            make(tmp_path / "s", **changed)
    with pytest.raises(ConfigError, match="key"):
        Store(tmp_path / "s", IDS, 2, 16, {"key": "other"})
    with pytest.raises(ConfigError, match="no cache"):
        make(tmp_path / "t", write=False)
    (tmp_path / "s" / "meta.json").write_text("{")
    with pytest.raises(MachineError, match=r"meta\.json"):
        make(tmp_path / "s")
    (tmp_path / "s" / "meta.json").unlink()


def test_a_cut_file_is_refused(tmp_path: Path) -> None:
    fill(make(tmp_path / "s"))
    os.truncate(tmp_path / "s" / "records.bin", 100)
    with pytest.raises(MachineError, match="damaged"):
        make(tmp_path / "s")


def test_what_does_not_fit_the_disk_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(MachineError, match="does not fit"):
        Store(tmp_path / "s", np.arange(1000), 1_000_000, 8_000_000, {})
    assert not (tmp_path / "s").exists()


CHILD = """
import sys, time, numpy as np
sys.path.insert(0, {here!r})
from pathlib import Path
from tests.cache.test_store import make, fill
store = make(Path({folder!r}))
assert store.writing
fill(store, np.arange(6))
print("filled", flush=True)
time.sleep(60)
"""


def test_a_killed_writer_leaves_what_it_wrote(tmp_path: Path) -> None:
    here, folder = str(Path(__file__).parents[2]), tmp_path / "s"
    code = CHILD.format(here=here, folder=str(folder))
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "filled\n"
        meanwhile = make(folder)  # another process, while the first one holds the lock
        assert not meanwhile.writing
        assert np.array_equal(meanwhile.read(np.arange(6))[0], content(np.arange(6)))
        child.send_signal(signal.SIGKILL)
        child.wait()
    store = make(folder)
    assert store.writing
    assert store.left == 4
    assert store.read(np.arange(10))[1].tolist() == [True] * 6 + [False] * 4
    fill(store, np.arange(6, 10))
    assert store.finished
    assert store.verify() == 10


def test_who_meets_a_store_that_is_being_made_waits_for_it(tmp_path: Path) -> None:
    folder = tmp_path / "s"
    folder.mkdir()
    maker = FileLock(folder / ".make.lock")
    maker.acquire()
    found: list[bool] = []
    other = threading.Thread(target=lambda: found.append(make(folder).writing), daemon=True)
    other.start()
    other.join(0.3)
    assert not found
    assert other.is_alive(), "it waits: no files are there yet"
    maker.release()
    other.join(10)
    assert found == [True]


def test_a_record_whose_sum_alone_was_kept_is_made_again_before_a_store_is_finished(tmp_path: Path) -> None:
    store = make(tmp_path / "s")
    fill(store, np.arange(9))
    store.records[4] = 0  # what a power cut may leave
    fill(store, np.array([9]))
    assert not store.finished
    assert [rows.tolist() for rows in store.gaps(3)] == [[4]]
    fill(store, np.array([4]))
    assert store.finished
    assert store.verify() == 10


def test_gaps_are_what_is_not_there(tmp_path: Path) -> None:
    store = make(tmp_path / "s")
    fill(store, np.array([1, 2, 6]))
    assert [rows.tolist() for rows in store.gaps(3)] == [[0, 3, 4], [5, 7, 8], [9]]
