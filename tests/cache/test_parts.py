"""Parts of stores: who may write what, and processes that fill a store part by part."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest

from potstill.cache import Store, parts, read_meta
from potstill.cache.parts import MOST, Parts, rows_a_part
from potstill.errors import MachineError

from .test_store import IDS, content

VIEWS, SIZE = 20, 24
ROWS = VIEWS * len(IDS)


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts, "ROWS", 16)


def shared(folder: Path) -> Store:
    return Store(folder, IDS, VIEWS, SIZE, {"key": "k"}, share=True)


def fill(store: Store, batch: int = 4, wait: float = 0.0) -> int:
    """As many as were written."""
    n = 0
    while store.claim():
        for rows in store.gaps(batch):
            store.write(rows, content(rows, SIZE))
            n += len(rows)
            time.sleep(wait)
    return n


def held(store: Store) -> list[int]:
    return sorted({row // 16 for row in store.parts.held})


def test_parts_are_whole_pages_of_both_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    for rows in (1, 8192, 8193, 180_000, 1_600_000_000):
        each = rows_a_part(rows)
        assert each * 8 % 2**16 == 0, "records are a multiple of 8 bytes, sums are 8"
        assert 1 <= -(-rows // each) <= MOST
    assert rows_a_part(180_000) == 8192, "enough parts to share"


def test_one_part_or_all_or_none(tmp_path: Path) -> None:
    a, b = Parts(tmp_path, 40, 16), Parts(tmp_path, 40, 16)
    assert len(a) == 3
    assert a.rows_of(2) == range(32, 40)
    assert a.take(1)
    assert not b.take(1)
    assert not b.take_all()
    assert a.held == range(16, 32)
    assert not b.held
    assert Parts(tmp_path, 40, 16).take(0), "trying all keeps none"
    assert a.take(2)
    assert b.take(1), "a part is given back for another"
    assert not a.whole
    b.release()
    assert a.take_all()
    assert a.whole
    a.release()
    assert b.take_all()


def test_processes_fill_what_they_have_claimed_and_nothing_else(tmp_path: Path) -> None:
    a, b = shared(tmp_path / "s"), shared(tmp_path / "s")
    assert not a.writing
    assert a.claim()
    assert b.claim()
    assert (held(a), held(b)) == ([0], [1])
    rows = np.arange(ROWS)
    b.write(rows, content(rows, SIZE))
    assert b.filled(rows).nonzero()[0].tolist() == [*range(16, 32)]
    assert a.left == b.left == ROWS - 16, "each sees what the others write"
    assert [rows.tolist() for rows in a.gaps(10)] == [[*range(10)], [*range(10, 16)]]
    a.write(rows[:5], content(rows[:5], SIZE))
    assert fill(b) == ROWS - 32
    assert not b.finished, "a part has gaps, and another process holds it"
    assert not b.claim()
    a.close()
    assert fill(b) == 11
    assert b.finished
    assert read_meta(tmp_path / "s")["finished"]
    assert not a.claim()
    assert a.finished
    assert a.verify() == ROWS


def test_a_training_takes_all_or_nothing(tmp_path: Path) -> None:
    builder = shared(tmp_path / "s")
    assert builder.claim()
    run = Store(tmp_path / "s", IDS, VIEWS, SIZE, {"key": "k"})
    assert not run.writing
    builder.close()
    run = Store(tmp_path / "s", IDS, VIEWS, SIZE, {"key": "k"})
    assert run.parts.whole
    assert not builder.claim()
    run.write(np.arange(ROWS), content(np.arange(ROWS), SIZE))
    assert run.finished


def test_a_store_of_an_older_release_is_filled_by_one_at_a_time(tmp_path: Path) -> None:
    shared(tmp_path / "s")
    meta = read_meta(tmp_path / "s")
    del meta["part"]
    (tmp_path / "s" / "meta.json").write_text(json.dumps(meta))
    a, b = shared(tmp_path / "s"), shared(tmp_path / "s")
    assert len(a.parts) == 1
    assert a.claim()
    assert not b.claim()
    assert fill(a) == ROWS
    assert Store.at(tmp_path / "s").verify() == ROWS


def test_what_is_damaged_in_a_part_is_made_again_before_the_store_is_finished(tmp_path: Path) -> None:
    a, b = shared(tmp_path / "s"), shared(tmp_path / "s")
    assert a.claim()
    a.write(np.arange(16), content(np.arange(16), SIZE))
    with open(tmp_path / "s" / "records.bin", "r+b") as file:
        file.seek(7 * SIZE)
        file.write(b"\xff")
    a.close()
    assert fill(b) == ROWS - 16 + 1
    assert b.finished
    assert (b.records == content(np.arange(ROWS), SIZE)).all()


def test_who_reads_looks_anew_for_what_a_network_disk_does_not_show(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader, writer, rows = shared(tmp_path / "s"), shared(tmp_path / "s"), np.arange(3)
    for name in ("records.bin", "sums.bin"):  # the reader goes on seeing the old files
        path = tmp_path / "s" / name
        kept = path.read_bytes()
        path.unlink()
        path.write_bytes(kept)
    assert writer.claim()
    writer.write(rows, content(rows, SIZE))
    assert not reader.read(rows)[1].any()
    monkeypatch.setattr("potstill.cache.store.AGAIN", 0.0)
    assert reader.read(rows)[1].all()


def test_a_store_that_is_being_filled_is_not_removed(tmp_path: Path) -> None:
    from potstill.cache import Shelf

    shelf = Shelf(tmp_path)
    store = shared(shelf.root / "name")
    assert store.claim()
    with pytest.raises(MachineError, match="writes"):
        shelf.remove("name")
    (shelf.root / "name" / "meta.json").write_text("{")
    store.close()
    assert shelf.remove("name") > 0, "what is damaged can be removed too"
    assert not (shelf.root / "name").exists()


def work(folder: Path, who: int, start: multiprocessing.Barrier, counts: multiprocessing.SimpleQueue[int]) -> None:
    store = shared(folder)
    if who == 0:  # is killed with a part half done, and a record half written
        assert store.claim()
        rows = np.arange(store.parts.held.start, store.parts.held.start + 5)
        store.write(rows, content(rows, SIZE))
        store.records[rows[-1], -1] ^= 1
        os.kill(os.getpid(), signal.SIGKILL)
    start.wait(20)
    n = fill(store, wait=0.01)
    while not store.finished:
        time.sleep(0.01)
        n += fill(store)
    counts.put(n)


@pytest.mark.parametrize("processes", [2, 4])
def test_several_processes_give_what_one_gives_though_one_is_killed(tmp_path: Path, processes: int) -> None:
    one = shared(tmp_path / "one")
    assert fill(one) == ROWS
    fork = multiprocessing.get_context("fork")
    start, counts = fork.Barrier(processes), fork.SimpleQueue()
    team = [fork.Process(target=work, args=(tmp_path / "s", i, start, counts)) for i in range(processes + 1)]
    team[0].start()
    team[0].join(20)
    for member in team[1:]:
        member.start()
    for member in team[1:]:
        member.join(20)
    assert [member.exitcode for member in team] == [-signal.SIGKILL, *[0] * processes]
    wrote = [counts.get() for _ in range(processes)]
    assert sum(wrote) == ROWS - 5 + 1, "nothing twice, but for the record that was half written"
    assert sum(n > 0 for n in wrote) > 1, "one did not do it all"
    store = Store.at(tmp_path / "s")
    assert store.finished
    assert store.verify() == ROWS
    assert (store.records == one.records).all()
    assert (store.sums == one.sums).all()
