"""Spot-adaptive distillation as users start it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.numpy import load_file as load_arrays
from safetensors.torch import load_file

import potstill
from potstill.cli import run as cli
from potstill.errors import InterruptedRun
from potstill.trial import Stop

STUDENT = "zoo:cnn(widths=(4, 8))"


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def distill(teacher: Path, name: str, **settings: Any) -> Path:
    common: dict[str, Any] = {"epochs": 2, "control": False, "track": [], "quiet": True, "optim": {"lr": 0.01}}
    return potstill.distill(str(teacher), STUDENT, name=name, **{**common, **settings}).path


def same(a: Path, b: Path) -> bool:
    one, two = load_file(a / "student.safetensors"), load_file(b / "student.safetensors")
    return one.keys() == two.keys() and all(torch.equal(one[k], two[k]) for k in one)


def test_from_the_command_line(teacher_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--teacher", str(teacher_run), "--student", STUDENT, "--method", "fitnet+kd", "--spots", "adaptive"]
    assert cli(["distill", *arguments, "--epochs", "2", "--no-control", "--name", "mine", "optim.lr=0.01"]) == 0
    said = capsys.readouterr().err
    assert "spots: adaptive at features.stage2, logits" in said
    assert "routing" in said
    rows = [json.loads(line) for line in Path("runs/mine/student-s0/metrics.jsonl").read_text().splitlines()]
    assert all(row["decisions"].keys() == {"features.stage2", "logits"} for row in rows)
    assert all(0 < p < 1 for row in rows for p in row["decisions"].values())
    assert rows[0]["decisions"] != rows[1]["decisions"]
    found = load_arrays("runs/mine/decided.safetensors")
    least, most = found["p"][::2], found["p"][1::2]
    assert (least <= most).all()
    assert (found["y"][::2] == found["y"][1::2]).all()
    assert sorted({*found["y"].tolist()}) == list(range(10))
    assert "Where it distils" in Path("runs/mine/report.html").read_text()
    assert load_file("runs/mine/student.safetensors").keys() == potstill.load("runs/mine").state_dict().keys()
    assert cli(["eval", "runs/mine"]) == 0


def test_always_is_the_plain_method_bit_for_bit(teacher_run: Path) -> None:
    plain = distill(teacher_run, "plain", method="at+kd")
    assert same(plain, distill(teacher_run, "always", method="at+kd", spots={"rule": "always"}))
    assert not same(plain, distill(teacher_run, "none", method="at+kd", spots={"rule": "none"}))


def test_an_interrupted_run_goes_on_exactly(teacher_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = distill(teacher_run, "whole", spots="adaptive")
    calls = iter(range(1000))
    with monkeypatch.context() as m:
        m.setattr(Stop, "__call__", lambda self: next(calls) == 20)
        with pytest.raises(InterruptedRun):
            distill(teacher_run, "torn", spots="adaptive")
    torn = potstill.resume("runs/torn", quiet=True).path
    assert same(whole, torn)
    whole_rows, torn_rows = (
        [json.loads(line)["decisions"] for line in (p / "student-s0" / "metrics.jsonl").read_text().splitlines()]
        for p in (whole, torn)
    )
    assert whole_rows == torn_rows


def test_policy_and_bridges_learn_at_their_own_rate(teacher_run: Path) -> None:
    slow = distill(teacher_run, "slow", spots={"rule": "adaptive", "policy_lr": 1e-6, "policy_decay": 0.0})
    fast = distill(teacher_run, "fast", spots={"rule": "adaptive"})
    moved = []
    for path in (slow, fast):
        rows = [json.loads(line) for line in (path / "student-s0" / "metrics.jsonl").read_text().splitlines()]
        moved.append(abs(rows[-1]["decisions"]["logits"] - rows[0]["decisions"]["logits"]))
    assert moved[1] > 5 * moved[0]


def test_every_quirk_of_the_authors_at_once(teacher_run: Path) -> None:
    path = distill(teacher_run, "authors", epochs=1, method="sp+kd", spots={"rule": "adaptive", "authors": True})
    row = json.loads((path / "student-s0" / "metrics.jsonl").read_text())
    assert row["decisions"]["logits"] > 0.99, "their policy starts with a bias of 10"
