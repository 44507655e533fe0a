"""``potstill sweep`` as users start it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("optuna")

from potstill.cli import run as cli

SMALL = "zoo:cnn(widths=(4, 8))"


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_a_sweep(teacher_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [
        "--teacher",
        str(teacher_run),
        "--student",
        SMALL,
        "--data",
        "digits",
        "--epochs",
        "1",
        "--trials",
        "1",
    ]
    assert cli(["sweep", *arguments, "--name", "mine"]) == 0
    out, err = capsys.readouterr()
    assert out.strip() == "sweeps/mine"
    for said in (
        "losses.kd.temperature  1 .. 20, log",
        "       1/1      0 ",
        "% val",
        "% test",
        "best-0000.yaml --seeds 3",
    ):
        assert said in err
    assert cli(["sweep", *arguments, "--name", "mine", "--json", "-q"]) == 0  # it is done: nothing is trained
    found = json.loads(capsys.readouterr().out)
    assert len(found["trials"]) == 1
    assert found["path"] == "sweeps/mine"


@pytest.mark.slow
def test_two_workers_share_the_trials(teacher_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--teacher", str(teacher_run), "--student", SMALL, "--epochs", "20", "--trials", "4", "--workers", "2"]
    assert cli(["sweep", "--data", "digits", *arguments, "--name", "two", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [t["state"] for t in found["trials"]] in (["done"] * 4, ["done"] * 3 + ["stopped"])
    assert len(list(Path("sweeps/two/trials").iterdir())) == 4


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        ([], 2, "a sweep of what?"),
        (["digits", "--over", "losses.kd.temprature=1..20"], 2, "Did you mean 'temperature'"),
        (["digits", "--over", "optim.lr=5..1"], 2, "the range is empty"),
        (["digits", "--trials", "many"], 2, "--trials must be a whole number from 1"),
        (["digits", "--together", "0"], 2, "--together must be a whole number from 1"),
        (["digits", "--against", "flops"], 2, "--against must be one of"),
        (["nowhere.yaml"], 2, "no such file or recipe"),
    ],
)
def test_bad_input(arguments: list[str], code: int, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli(["sweep", *arguments]) == code
    err = capsys.readouterr().err
    assert said in err
    assert "Traceback" not in err
    assert not Path("sweeps").exists()
