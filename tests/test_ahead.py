"""A cache that is filled before the runs that read it: once, whatever happens on the way."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import potstill
from potstill import ahead
from potstill.cache import Shelf, Store
from potstill.cli import run as cli
from potstill.config.load import resolve
from potstill.errors import ConfigError, InterruptedRun
from potstill.taps import Frozen

STUDENT = "zoo:cnn(widths=(4, 8))"


def flags(teacher: Path, folder: Path, views: int = 2) -> dict[str, Any]:
    return {
        "teacher.model": str(teacher),
        "student.model": STUDENT,
        "method": "at+kd",
        "cache": {"views": views, "dir": str(folder)},
    }


def fill(teacher: Path, folder: Path, **more: Any) -> list[dict[str, Any]]:
    rows = ahead.build(resolve([], [], {**flags(teacher, folder), **more}, "distill").config)
    assert rows is not None
    return rows


def stored(folder: Path) -> tuple[np.ndarray, bool]:
    shelf = Shelf(folder)
    (name,) = shelf.names()
    store = Store.at(shelf.find(name))
    store.verify()
    return store.records.copy(), store.finished


def test_a_run_after_it_does_not_ask_the_teacher(
    teacher_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    where = ["--teacher", str(teacher_run), "--student", STUDENT, "--method", "at+kd"]
    assert cli(["cache", "build", *where, "--views", "2", "--dir", str(tmp_path / "c"), "--json", "-q"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert row["records"] == row["asked"] == 2 * Shelf(tmp_path / "c").rows()[0]["samples"]
    assert fill(teacher_run, tmp_path / "c")[0]["asked"] == 0
    asked: list[int] = []
    forward = Frozen.forward
    monkeypatch.setattr(Frozen, "forward", lambda self, x: asked.append(len(x)) or forward(self, x))
    settings = {"epochs": 1, "control": False, "track": [], "quiet": True, "out": str(tmp_path), "name": "r"}
    run = potstill.distill(
        str(teacher_run), STUDENT, method="at+kd", cache={"views": 2, "dir": str(tmp_path / "c")}, **settings
    )
    assert sum(asked) < 100
    assert any("the teacher does not run" in line for line in run.facts["preflight"])


def test_an_interrupted_one_goes_on_and_gives_the_same_records(
    teacher_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(teacher_run, tmp_path / "whole")
    calls = 0

    def third(self: Any) -> bool:
        nonlocal calls
        calls += 1
        return calls == 3

    with monkeypatch.context() as patch:
        patch.setattr(ahead.Stop, "__call__", third)
        with pytest.raises(InterruptedRun, match="768 of"):
            fill(teacher_run, tmp_path / "torn")
    assert not stored(tmp_path / "torn")[1]
    (row,) = fill(teacher_run, tmp_path / "torn")
    assert row["asked"] == row["records"] - 768
    whole, torn = stored(tmp_path / "whole"), stored(tmp_path / "torn")
    assert whole[1]
    assert torn[1]
    assert (whole[0] == torn[0]).all()


CODE = """
import sys, time
sys.path.insert(0, {root!r})
from pathlib import Path
from potstill.cache import parts
from potstill.cache.store import Store
from tests.test_ahead import fill
write, parts.ROWS = Store.write, 512
def once(self, rows, records):
    write(self, rows, records)
    print("wrote", flush=True)
    time.sleep(100)
Store.write = once
fill(Path({teacher!r}), Path({folder!r}))
"""


@pytest.mark.slow
def test_one_that_is_killed_leaves_its_part_to_one_that_has_filled_all_others_and_waits(
    teacher_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fill(teacher_run, tmp_path / "whole")
    code = CODE.format(root=str(Path(__file__).parents[1]), teacher=str(teacher_run), folder=str(tmp_path / "c"))
    first = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert first.stdout is not None
    assert first.stdout.readline() == "wrote\n"
    waits: list[float] = []

    def killed_the_second_time(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == 2:
            assert "  256 are left, and other processes fill them: waiting" in capsys.readouterr().err
            first.send_signal(signal.SIGKILL)
            first.wait()

    monkeypatch.setattr(ahead.time, "sleep", killed_the_second_time)
    (row,) = fill(teacher_run, tmp_path / "c")
    assert len(waits) == 2
    assert row["asked"] == row["records"] - 256, "what the first did is not done again"
    (a, done), (b, _) = stored(tmp_path / "c"), stored(tmp_path / "whole")
    assert done
    assert (a == b).all()


def test_what_cannot_be_kept_is_refused(teacher_run: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="mixup"):
        fill(teacher_run, tmp_path, **{"data.augment.mixup": 0.2})
    with pytest.raises(ConfigError, match="spot-adaptive"):
        fill(teacher_run, tmp_path, **{"spots.rule": "adaptive"})
    with pytest.raises(ConfigError, match="no weights"):
        fill(Path("zoo:cnn"), tmp_path)
    assert not list(tmp_path.rglob("records.bin"))
