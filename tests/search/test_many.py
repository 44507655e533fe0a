"""Trials of a sweep side by side are those that were trained alone, bit for bit; one may end without the others."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

pytest.importorskip("optuna")

import potstill
from potstill import engine, run
from potstill.config.load import resolve
from potstill.console import Console
from potstill.errors import InterruptedRun
from potstill.search.ledger import LIVES, Ledger
from potstill.search.say import Teller
from potstill.search.space import read
from potstill.taps import Frozen
from potstill.together import Once
from tests.test_together import files, same

FOUR = {"method": ["kd+fitnet", "kd+at"], "losses.kd.temperature": [2.0, 8.0]}
STEPS = {"data.limit": 300, "data.batch": 32}
EPOCH = 10
"""Steps."""


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("potstill.run.report", lambda paths: None)
    monkeypatch.setattr("potstill.search.one.shutil", SimpleNamespace(rmtree=lambda *a, **k: None))  # states are read


def sweep(teacher: Path, over: dict[str, Any], **more: Any) -> Any:
    student = "zoo:cnn(widths=(4, 8))"
    given = {"student": student, "epochs": 2, "name": "s", "quiet": True, **STEPS, **more}
    given = {key: value for key, value in given.items() if key not in over}
    return potstill.sweep(teacher=str(teacher), data="digits", over=over, **given)


def as_alone(home: Path, seed: int = 0) -> bool:
    """Whether a trial came to what the same run comes to by itself."""
    config = resolve([str(home / "config.yaml")]).config
    own = run.distill(config.model_copy(update={"out": "alone", "name": home.name}), console=Console(quiet=True))
    return same(files(own.path, seed), files(home, seed))


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Counter[tuple[str, ...]]:
    """How often teachers of several students were asked, by the spots at which they were heard."""
    count: Counter[tuple[str, ...]] = Counter()
    plain = Frozen.forward

    def counted(self: Frozen, x: torch.Tensor) -> Any:
        if type(self) is Once:
            count[self.net.spots] += 1  # type: ignore[index]
        return plain(self, x)

    monkeypatch.setattr(Frozen, "forward", counted)
    return count


def test_two_methods_and_two_temperatures_on_one_pass(teacher_run: Path, asked: Counter[tuple[str, ...]]) -> None:
    found = sweep(teacher_run, FOUR, trials=4, together=4, epochs=1)
    settings = {tuple(t["settings"].values()) for t in found.trials}
    assert settings == {*itertools.product(*FOUR.values())}, "each combination once"
    assert [t["state"] for t in found.trials] == ["done"] * 4
    ((spots, times),) = asked.items()
    assert len(spots) > 1, "those of both methods"
    assert times == EPOCH
    homes = [found.path / t["home"] for t in found.trials]
    for method in FOUR["method"]:
        assert as_alone(next(found.path / t["home"] for t in found.trials if t["settings"]["method"] == method))
    assert not same(files(homes[0], 0)["bits"], files(homes[1], 0)["bits"])


def test_one_is_stopped_one_diverges_the_others_go_on(teacher_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = Ledger.report

    def report(self: Ledger, trial: Any, epoch: int, value: float) -> bool:
        plain(self, trial, epoch, value)
        return bool(self.values(trial)["optim.lr"] == 1e-8)  # as the median would have it among more trials

    monkeypatch.setattr(Ledger, "report", report)
    found = sweep(teacher_run, {"optim.lr": [0.05, 1e-8, 1e12]}, trials=3, together=3)
    states = {t["settings"]["optim.lr"]: (t["state"], t["epochs"]) for t in found.trials}
    assert states == {0.05: ("done", 2), 1e-8: ("stopped", 1), 1e12: ("diverged", None)}
    (good,) = (t for t in found.trials if t["state"] == "done")
    assert as_alone(found.path / good["home"])


@pytest.mark.slow
@pytest.mark.parametrize("how", ["Ctrl-C", "power cut"])
def test_the_same_command_goes_on(
    how: str, teacher_run: Path, asked: Counter[tuple[str, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, left = engine.save_state, itertools.count(3, -1)

    def dies(path: Path, state: dict[str, Any]) -> None:
        if (last := next(left) == 0) and how == "power cut":
            raise SystemExit(how)
        if last:
            os.kill(os.getpid(), signal.SIGINT)
        plain(path, state)

    common = {"over": {"losses.kd.temperature": [2.0, 8.0]}, "trials": 2, "together": 2, "save_steps": 2}
    with monkeypatch.context() as patch:
        patch.setattr(engine, "save_state", dies)
        with pytest.raises(InterruptedRun if how == "Ctrl-C" else SystemExit):
            sweep(teacher_run, **common)
    assert 0 < asked.total() < EPOCH
    ledger = Ledger(Path("sweeps/s"), read({"losses.kd.temperature": [2.0, 8.0]}))
    lives = [t.user_attrs.get("lives", LIVES) for t in ledger.study.get_trials() if t.state.name == "WAITING"]
    assert lives == ([LIVES] * 2 if how == "Ctrl-C" else []), "who was asked to stop has not died"
    found = sweep(teacher_run, **common)
    assert [t["state"] for t in found.trials] == ["done"] * 2
    assert [t["home"] for t in found.trials] == ["trials/0000", "trials/0001"]
    assert how == "power cut" or asked.total() == 2 * EPOCH, "no batch is asked about twice"
    assert as_alone(found.path / found.trials[1]["home"])


@pytest.mark.slow
def test_after_a_kill(teacher_run: Path) -> None:
    code = f"import sys; sys.path.insert(0, {str(Path(__file__).parents[2])!r})\n"
    code += "import potstill, torch; torch.set_num_threads(1)\n"
    over = {"losses.kd.temperature": [2.0, 8.0], "method": ["kd", "kd+at"]}
    given = {"student": "zoo:cnn(widths=(4, 8))", "epochs": 12, "name": "s", "quiet": True, "save_steps": 4, **STEPS}
    common = {**given, "over": over, "trials": 4, "together": 4}
    code += f"potstill.sweep(teacher={str(teacher_run)!r}, data='digits', **{common!r})"
    process = subprocess.Popen([sys.executable, "-c", code])
    try:
        states = [Path(f"sweeps/s/trials/{n:04d}/student-s0/state/last.json") for n in range(4)]
        while not all(s.exists() for s in states) and process.poll() is None:
            time.sleep(0.05)
        time.sleep(0.2)
        assert process.poll() is None
    finally:
        process.kill()
        process.wait()
    found = sweep(teacher_run, **common)
    assert [t["state"] for t in found.trials] == ["done"] * 4
    assert all(as_alone(found.path / t["home"]) for t in found.trials[::3])


@pytest.mark.slow
def test_who_sees_other_batches_comes_after(
    teacher_run: Path, asked: Counter[tuple[str, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    monkeypatch.setattr(Teller, "apart", lambda self, reason: said.append(reason))
    found = sweep(teacher_run, over={"data.batch": [16, 32]}, trials=2, together=2, epochs=1)
    assert [t["state"] for t in found.trials] == ["done"] * 2
    assert said == ["another data.batch"]
    assert asked.total() == EPOCH + 19
    assert as_alone(found.path / found.trials[1]["home"])


@pytest.mark.slow
def test_seeds_are_trials_too(teacher_run: Path, asked: Counter[tuple[str, ...]]) -> None:
    found = sweep(teacher_run, over={"seed": [3, 4]}, trials=2, together=2, epochs=1)
    assert asked.total() == EPOCH
    for t in found.trials:
        assert as_alone(found.path / t["home"], t["settings"]["seed"])


@pytest.mark.slow
def test_two_seeds_a_trial(teacher_run: Path, asked: Counter[tuple[str, ...]]) -> None:
    """Each seed beside the same seed of the others, in its own order."""
    over = {"losses.kd.temperature": [2.0, 8.0], "epochs": [1, 2]}
    found = sweep(teacher_run, over=over, trials=4, together=4, seeds=2)
    assert asked.total() == 2 * 2 * EPOCH
    for t in found.trials:
        assert as_alone(found.path / t["home"], 1)
