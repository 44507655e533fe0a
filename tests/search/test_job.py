"""Sweeps of real runs: small nets on the digits, an epoch or three."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

pytest.importorskip("optuna")

import potstill
from potstill.config.load import resolve
from potstill.console import Console
from potstill.errors import ConfigError, InterruptedRun, MachineError, PotstillError
from potstill.ready import Objects
from potstill.search import ledger as ledger_
from potstill.search.one import attempt
from potstill.search.plan import Plan

SMALL = "zoo:cnn(widths=(4, 8))"
WIDE = ["zoo:cnn(widths=(8, 16))", "zoo:cnn(widths=(16, 16))"]  # 8 channels or more: fewer are not pruned


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("potstill.run.report", lambda paths: None)  # the pages of the trials take longer than they do


def sweep(teacher: Path, **more: Any) -> Any:
    given = {"student": SMALL, "epochs": 1, "name": "s", "quiet": True, **more}
    return potstill.sweep(teacher=str(teacher), data="digits", **given)


def test_a_search_goes_on_for_more(teacher_run: Path) -> None:
    over = {"losses.kd.temperature": (1, 20)}
    first = sweep(teacher_run, trials=1, over=over, seed=1)
    assert first.settings == {"losses.kd.temperature": 4.0}  # as published
    result = json.loads(Path("sweeps/s/trials/0000/student-s1/result.json").read_text())
    assert first.value == result["best"]["val"]["top1"]  # of the validation data, not of the test data
    assert first.best is not None
    assert (
        first.best["costs"]["parameters"]
        == json.loads(Path("sweeps/s/trials/0000/run.json").read_text())["student"]["parameters"]
    )
    began = Path("sweeps/s/trials/0000/run.json").stat().st_mtime_ns

    both = sweep(teacher_run, trials=2, over=over, seed=1)
    assert [t["number"] for t in both.trials] == [0, 1]
    assert Path("sweeps/s/trials/0000/run.json").stat().st_mtime_ns == began
    assert both.value == max(t["value"] for t in both.trials)
    assert not list(both.path.glob("trials/*/*/state"))  # of many trials they would fill the disk

    # the settings of the best are a configuration that trains it with a control
    best = resolve([f"sweeps/s/best-{both.facts['best']:04d}.yaml"]).config
    assert best.losses["kd"].settings["temperature"] == both.settings["losses.kd.temperature"]
    assert (best.out, best.name, best.control) == ("runs", None, True)

    page = Path("sweeps/s/sweep.html").read_text()
    assert "kd.temperature" in page
    assert page.count("<svg") == 2
    with pytest.raises(ConfigError, match=r"what differs: config\.epochs"):
        sweep(teacher_run, trials=2, over=over, seed=1, epochs=2)


def test_accuracy_against_cost(teacher_run: Path) -> None:
    pytest.importorskip("torch_pruning")
    over = {"student": WIDE, "prune": (0.4, 0.6)}
    found = sweep(teacher_run, student=None, trials=1, over=over, recover=1, name="p")
    assert found.facts["against"] == "macs"
    for row in found.trials:
        assert row["state"] == "done", row["why"]
        chain = json.loads((found.path / row["home"] / "pruned" / "chain.json").read_text())
        start, last = chain["stages"][0]["facts"], chain["stages"][-1]["facts"]
        assert [s["kind"] for s in chain["stages"]] == ["student", "prune", "recover"]
        assert row["value"] == last["val"]["top1"]
        assert row["costs"]["macs"] == last["macs"] <= start["macs"]
    assert found.front == found.trials
    assert 'id="front"' in Path("sweeps/p/sweep.html").read_text()


def test_a_bad_trial_is_stopped(teacher_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger_, "STARTUP", 1)
    found = sweep(teacher_run, trials=2, over={"optim.lr": (1e-8, 0.05)}, epochs=3)
    good, bad = found.trials
    assert (good["state"], good["settings"]["optim.lr"]) == ("done", 0.05)
    assert (bad["state"], bad["epochs"]) == ("stopped", 2)
    assert found.facts["best"] == 0
    rows = Path("sweeps/s/trials/0001/student-s0/metrics.jsonl").read_text().splitlines()
    assert len(rows) == 2
    assert json.loads(Path("sweeps/s/trials/0001/run.json").read_text())["status"] == "interrupted"


def test_a_killed_trial_goes_on_where_it_was(teacher_run: Path, tmp_path: Path) -> None:
    flags = {"teacher.model": str(teacher_run), "student.model": SMALL, "data.source": "digits", "epochs": 3}
    flags |= {"control": False, "track": [], "save_steps": 100, "save_every": 0.0, "out": str(tmp_path), "name": "t"}
    config = resolve([], [], flags, "distill").config
    heard: list[int] = []

    def go(name: str, die_at: int | None) -> Any:
        def told(epoch: int, value: float) -> bool:
            heard.append(epoch)
            if epoch == die_at:
                raise InterruptedRun("killed")
            return False

        own = config.model_copy(update={"name": name})
        nothing = {"prune": None, "recover": 0, "objects": Objects(), "console": Console(quiet=True)}
        return attempt(own, tmp_path / name, **nothing, told=told)

    with pytest.raises(InterruptedRun):
        go("t", 2)
    run = json.loads((tmp_path / "t" / "run.json").read_text())
    broken, heard[:] = heard[:], []
    outcome = go("t", None)
    assert (broken, heard) == ([1, 2], [1, 2, 3])  # the first two are told again from the journal, each once
    assert json.loads((tmp_path / "t" / "run.json").read_text())["started"] == run["started"]
    whole = go("u", None)
    assert outcome.value == whole.value
    a, b = (load_file(tmp_path / name / "student.safetensors") for name in "tu")
    assert all(torch.equal(a[k], b[k]) for k in a)
    assert go("t", 1).value == whole.value  # done is done: nothing is trained, nothing told


def test_it_stops_when_every_trial_fails(teacher_run: Path) -> None:
    with pytest.raises(PotstillError, match="3 trials failed in a row"):
        sweep(teacher_run, over={"student.kwargs.bogus": (1, 5)})
    found = json.loads(Path("sweeps/s/sweep.json").read_text())
    assert [t["state"] for t in found["trials"]] == ["failed"] * 3
    assert "bogus" in found["trials"][0]["why"]


def test_a_missing_package_is_named(teacher_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "optuna", None)
    with pytest.raises(MachineError, match=r"potstill\[sweep\]"):
        sweep(teacher_run)
    assert not Path("sweeps").exists()


def test_a_choice_that_is_no_net_is_refused_before_the_first_trial(teacher_run: Path) -> None:
    with pytest.raises(PotstillError, match="resnetX"):
        sweep(teacher_run, student=None, over={"student": [SMALL, "resnetX"]})
    assert not list(Path("sweeps/s").glob("trials/*"))


def test_plans_are_checked_without_loading_anything() -> None:
    nets = {"teacher.model": "resnet14", "student.model": "resnet8"}
    for more, said in (
        ({"over": ["losses.kd.temprature=1..20"]}, "Did you mean 'temperature'"),
        ({"over": ["losses.kd.temperature=0..20"]}, "must be greater than 0"),
        ({"over": ["epochs=1.5..3"]}, "whole number"),
        ({"over": ["student=a,b"]}, "both fixed and varied"),
        ({"over": ["method=kd,dkdd"]}, "no such method"),
        ({"against": "mac"}, "Did you mean 'macs'"),
        ({"workers": 2, "objects": Objects(data=[])}, "objects"),
        ({"trials": 0}, "--trials"),
        ({"flags": {**nets, "devices": 2}}, "one device"),
    ):
        with pytest.raises(ConfigError, match=said):
            _ = Plan(**{"flags": nets, **more}).dimensions


def test_one_seed_unless_the_command_says_more() -> None:
    assert Plan(["digits"]).base.config.seeds == 3
    assert Plan(["digits"]).config.seeds == 1
    assert Plan(["digits"], ["seeds=2"]).config.seeds == 2
    assert Plan(["digits"]).config.control is False


def test_a_student_that_only_the_choices_name() -> None:
    plan = Plan(flags={"teacher.model": "resnet14"}, over=["student=resnet8,resnet20", "epochs=1..9"])
    assert [d.key for d in plan.dimensions] == ["student.model", "epochs"]
    assert plan.resolved({"student.model": "resnet20", "epochs": 3}).student.model == "resnet20"
