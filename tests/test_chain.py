"""Chains of stages as users run them: from the command line and from Python, on the digits."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning_fabric import Fabric

import potstill
from potstill import engine
from potstill.chain import Onward
from potstill.cli import run as cli
from potstill.engine import Stage, fit
from potstill.errors import InterruptedRun
from potstill.methods.build import build
from potstill.optim import make_optimizer, make_scheduler
from potstill.runs import Journal
from potstill.taps import Frozen
from potstill.trial import Stop
from tests.engine_case import Digits, digits, net

STUDENT = "zoo:cnn(widths=(4, 8))"
SMALL = ["data.limit=160", "track=[]", "losses.ce.weight=1"]
STEPS = 3  # of an epoch of 160 pictures


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def rows(path: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (Path(path) / "student-s0" / "metrics.jsonl").read_text().splitlines()]


def distil(teacher: Path, method: str, *more: str, epochs: int = 3, control: bool = False) -> list[dict[str, Any]]:
    arguments = ["--teacher", str(teacher), "--student", STUDENT, "--method", method, "--epochs", str(epochs)]
    assert (
        cli(
            [
                "distill",
                "--data",
                "digits",
                *arguments,
                "--name",
                "r",
                "-q",
                *SMALL,
                f"control={str(control).lower()}",
                *more,
            ]
        )
        == 0
    )
    return rows("runs/r")


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many pictures the teacher was asked about, one entry a call."""
    seen: list[int] = []
    forward = Frozen.forward

    def counted(self: Frozen, x: torch.Tensor) -> Any:
        seen.append(len(x))
        return forward(self, x)

    monkeypatch.setattr(Frozen, "forward", counted)
    return seen


@pytest.mark.parametrize(
    ("method", "stages", "links", "asks"),
    [
        ("ab", [1, 2], {"ce"}, 1),
        ("fitnet_2stage", [1, 2], {"ce", "soft_ce"}, 3),
        ("ft", [1, 3], {"ce", "ft"}, 4),
    ],
)
def test_a_method_of_two_stages(
    method: str, stages: list[int], links: set[str], asks: int, teacher_run: Path, asked: list[int]
) -> None:
    said = distil(teacher_run, method)
    first, main = stages
    assert [r["stage"] for r in said] == [method] * first + ["distil"] * main
    assert [r["epoch"] for r in said] == [*range(1, first + main + 1)]
    assert all(r["train"]["links"].keys() == ({method} if r["stage"] == method else links) for r in said)
    assert [bool(r["val"]) for r in said] == [False] * first + [True] * main, "measured in the main stage alone"
    rehearsed = 3 * (2 if asks > 1 else 1)
    assert len(asked) == rehearsed + asks * STEPS, "where labels teach, the teacher need not run"
    assert [r["lr"] for r in said[:2]] == pytest.approx([0.01 if method == "ft" else 0.05, 0.05])
    result = json.loads(Path("runs/r/student-s0/result.json").read_text())
    assert result["epochs"] == 3, "the budget of a student is its steps: a stage that leaves it alone comes on top"
    assert result["best"]["epoch"] > first
    facts = json.loads(Path("runs/r/run.json").read_text())
    (before,) = [line for line in facts["preflight"] if line.startswith("before ")]
    assert before.split()[1:4] == [f"{method}:", "1", "epoch,"]
    assert ("on top" if method == "ft" else "up to features.stage2") in before
    (row,) = [r for r in facts["losses"] if r["name"] == method]
    assert 0 < row["before"]["share"] < 0.2
    assert facts["results"]["student"]["last"]["top1"]["n"] == 1
    assert cli(["eval", "runs/r", "--json"]) == 0


def test_rates_of_the_stages(teacher_run: Path) -> None:
    said = distil(teacher_run, "pad+kd", "losses.pad.before=0.6")
    assert [r["stage"] for r in said] == ["pad", "pad", "distil"]
    assert [round(r["lr"], 4) for r in said] == [0.05, 0.025, 0.005], "the run's schedule, then from a tenth"
    assert said[0]["train"]["links"].keys() == {"ce", "kd", "pad"}


def test_a_stage_is_switched_off(teacher_run: Path) -> None:
    said = distil(teacher_run, "ab", "losses.ab.before=false", epochs=1)
    assert [(r["stage"], [*r["train"]["links"]]) for r in said] == [("distil", ["ce", "ab"])]


def test_too_few_epochs_are_refused(teacher_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--teacher", str(teacher_run), "--student", STUDENT, "--method", "ab", "--epochs", "1"]
    assert cli(["distill", "--data", "digits", *arguments]) == 2
    assert "leaves none for the main stage" in capsys.readouterr().err
    assert not Path("runs").exists()


def test_the_control_has_as_many_steps_as_the_student(teacher_run: Path) -> None:
    distil(teacher_run, "ft", epochs=2, control=True)
    student, control = (
        json.loads(Path(f"runs/r/{trial}/result.json").read_text()) for trial in ("student-s0", "control-s0")
    )
    assert student["epochs"] == control["epochs"] == 2
    assert (student["last"]["epoch"], control["last"]["epoch"]) == (3, 2), "the journal counts all stages"


class Numbers:
    """A stream whose batches are their numbers."""

    def __len__(self) -> int:
        return 3

    def epoch(self, epoch: int, start: int = 0) -> Any:
        return iter([(epoch, i) for i in range(start, 3)])


def test_stages_of_one_student_go_through_one_stream() -> None:
    on = Onward(Numbers(), 2)
    assert (len(on), [*on.epoch(1, 1)]) == (3, [(3, 1), (3, 2)])


def staged() -> list[Stage]:
    """AB, then the labels, on the engine's small nets: dropout, BatchNorm, connectors."""
    torch.manual_seed(0)
    student, teacher = net(4), net(8)
    built = build(student, teacher, {"ce": {}, "ab": {"at": [["0.1", "0.1"]]}}, digits()[0][:4])
    schemes = {"ab": built.before[0].scheme, "distil": built.scheme}
    momentum = make_optimizer("sgd", lr=0.1, momentum=0.9)
    return [
        Stage(name, scheme, Digits(), 2, lambda s: momentum(s.begin()), make_scheduler("cosine", 2))
        for name, scheme in schemes.items()
    ]


def weights(stages: list[Stage]) -> torch.Tensor:
    return torch.cat([v.flatten().double() for s in stages for v in s.scheme.state_dict().values()])


def test_killed_anywhere_it_goes_on_exactly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fabric, save = Fabric(accelerator="cpu", devices=1), engine.save_state
    torch.manual_seed(7)
    whole = staged()
    fit(whole, fabric, journal=(journal := Journal(tmp_path / "whole")))
    expected, said = weights(whole), [{**row, "seconds": 0} for row in journal.rows()]
    assert [row["stage"] for row in said] == ["ab", "ab", "distil", "distil"]

    for strike in (
        1,
        3,
        6,
        7,
        9,
    ):  # in the first stage, at an epoch's end, between the stages, in the main one, at an end
        folder, saved = tmp_path / str(strike), 0

        def killed(path: Path, content: dict[str, Any], strike: int = strike) -> None:
            nonlocal saved
            save(path, content)
            saved += 1
            if saved == strike:
                raise KeyboardInterrupt

        torch.manual_seed(7)
        monkeypatch.setattr(engine, "save_state", killed)
        with pytest.raises(KeyboardInterrupt):
            fit(staged(), fabric, folder=folder, journal=Journal(folder.with_suffix(".m")), save_steps=2)
        monkeypatch.setattr(engine, "save_state", save)
        again = staged()
        torch.manual_seed(strike)  # whatever the state of the generators was, the checkpoint's counts
        fit(again, fabric, folder=folder, journal=(journal := Journal(folder.with_suffix(".m"))))
        assert torch.equal(weights(again), expected), strike
        assert [{**row, "seconds": 0} for row in journal.rows()] == said, strike


def test_a_run_that_is_stopped_in_its_first_stage_goes_on_exactly(
    teacher_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options: dict[str, Any] = {"method": "fitnet_2stage", "epochs": 2, "control": False, "track": [], "quiet": True}
    options["data.limit"] = 160
    whole = potstill.distill(str(teacher_run), STUDENT, "digits", name="whole", **options)
    answers = iter([False, True])
    with monkeypatch.context() as patch:
        patch.setattr(Stop, "__call__", lambda self: next(answers))
        with pytest.raises(InterruptedRun):
            potstill.distill(str(teacher_run), STUDENT, "digits", name="torn", **options)
    resumed = potstill.resume("runs/torn", quiet=True)
    a, b = whole.student.state_dict(), resumed.student.state_dict()
    assert all(torch.equal(a[k], b[k]) for k in a)


def test_mlkd_teaches_on_two_views_and_the_labels_too(teacher_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from potstill.losses import CE, MLKD

    seen: dict[str, list[int]] = {"ce": [], "mlkd": []}
    ce, mlkd = CE.forward, MLKD.forward

    def count_ce(self: CE, s: torch.Tensor, t: object = None, batch: object = None) -> torch.Tensor:
        seen["ce"].append(1)
        return ce(self, s, t, batch)  # type: ignore[arg-type]

    def count_mlkd(self: MLKD, s: list[torch.Tensor], t: list[torch.Tensor], batch: object = None) -> torch.Tensor:
        seen["mlkd"].append(len(s) if isinstance(s, list) else 1)
        if isinstance(s, list):
            assert not torch.equal(t[0], t[1]), "two views of one picture are two pictures"
        return mlkd(self, s, t, batch)  # type: ignore[arg-type]

    monkeypatch.setattr(CE, "forward", count_ce)
    monkeypatch.setattr(MLKD, "forward", count_mlkd)
    common = {"epochs": 1, "control": False, "track": [], "quiet": True}
    potstill.distill(str(teacher_run), "zoo:cnn(widths=(4, 8))", method="mlkd", **common)
    assert {*seen["mlkd"]} == {2}
    assert len(seen["ce"]) == 2 * len(seen["mlkd"])
    seen["mlkd"].clear()
    one = {"source": "digits", "second": False}
    potstill.distill(str(teacher_run), "zoo:cnn(widths=(4, 8))", one, method="mlkd", **common)
    assert {*seen["mlkd"]} == {1}
