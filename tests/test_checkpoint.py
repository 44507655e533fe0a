import os
import random
from pathlib import Path

import numpy as np
import pytest
import torch

from potstill.checkpoint import load_state, rng_state, save_state, set_rng_state
from potstill.errors import ModelError
from potstill.files import write_atomically


def test_round_trip_reads_without_running_code(tmp_path: Path) -> None:
    path = tmp_path / "last.json"
    assert load_state(path) is None
    save_state(path, {"w": torch.arange(3), "position": {"epoch": 2, "best": {"top1": 0.5}}, "rng": rng_state()})
    state = load_state(path)
    assert state is not None
    assert torch.equal(state["w"], torch.arange(3))
    assert state["position"] == {"epoch": 2, "best": {"top1": 0.5}}


def test_the_one_before_serves_when_the_newest_is_damaged(tmp_path: Path) -> None:
    path = tmp_path / "last.json"
    for i in range(5):
        save_state(path, {"i": i})
    files = sorted(tmp_path.glob("*.pt"))
    assert len(files) == 2
    newest = max(files, key=lambda f: f.stat().st_mtime_ns)
    newest.write_bytes(newest.read_bytes()[:-10])
    assert load_state(path) == {"i": 3}
    for f in files:
        f.write_bytes(b"")
    with pytest.raises(ModelError, match="damaged"):
        load_state(path)
    path.write_text("{")
    with pytest.raises(ModelError, match="damaged"):
        load_state(path)


def test_a_crash_between_file_and_index_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "last.json"
    save_state(path, {"i": 0})
    save_state(path, {"i": 1})
    replaced = os.replace

    def crash(a: str, b: str) -> None:
        if str(b).endswith(".json"):
            raise KeyboardInterrupt
        replaced(a, b)

    monkeypatch.setattr(os, "replace", crash)
    with pytest.raises(KeyboardInterrupt):
        save_state(path, {"i": 2})
    assert load_state(path) == {"i": 1}


def test_an_atomic_write_leaves_the_old_file_when_it_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a"
    write_atomically(path, b"old")

    def full(fd: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="space"):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


def test_every_global_generator_comes_back(tmp_path: Path) -> None:
    def draw() -> tuple[float, float, float, float]:
        return torch.rand(()).item(), np.random.rand(), random.random(), random.gauss(0, 1)

    draw()
    save_state(tmp_path / "s.json", rng_state())
    first = draw()
    assert draw() != first
    state = load_state(tmp_path / "s.json")
    assert state is not None
    set_rng_state(state)
    assert draw() == first


def test_a_pickle_with_code_is_not_loaded(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.system, (f"touch {tmp_path / 'ran'}",)

    save_state(tmp_path / "s.json", {"x": Evil()})  # type: ignore[dict-item]
    with pytest.raises(Exception, match="Weights only load failed"):
        load_state(tmp_path / "s.json")
    assert not (tmp_path / "ran").exists()
