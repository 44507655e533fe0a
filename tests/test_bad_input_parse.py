"""Bad input that is refused before torch is imported: rows 1 to 7 of the table of bad inputs, and the battery for parsers.

Each: the promised exit code, at most six lines (or a heading and a line a fault), no traceback, the culprit by its name,
and nothing written."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

from potstill.cli import run

GOOD = "teacher: runs/teacher\nstudent: zoo:resnet8x4\n"


class Bad(NamedTuple):
    """A case: what is in c.yaml, the command after it, the exit code, and what the message says."""

    file: str | bytes
    arguments: list[str]
    code: int
    says: list[str]


BOMB = "a: &a [x,x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{q}: &{q} [{','.join(['*' + p] * 10)}]\n" for p, q in zip("abcdef", "bcdefg", strict=True)
)

ROWS = {
    "1 key misspelt": Bad(GOOD + "epoch: 3\n", [], 2, ["c.yaml:3:1: epoch: no such key. Did you mean 'epochs'?"]),
    "1 key misspelt in a section": Bad(
        GOOD + "data:\n  batchs: 3\n", [], 2, ["c.yaml:4:3: data.batchs", "Did you mean 'batch'?"]
    ),
    "1 key misspelt inside a loss": Bad(
        GOOD + "losses: {kd: {tempratur: 2}}\n",
        [],
        2,
        ["c.yaml:3:15: losses.kd.tempratur: no such key. Did you mean 'temperature'? Known:"],
    ),
    "1 all at once": Bad(
        "optim: {learning_rate: 0.1}\nepochs: ten\nstudent: x\nteacher: y\n",
        ["seeds=0"],
        2,
        [
            "error: 3 problems in the configuration",
            "c.yaml:1:9: optim.learning_rate",
            "Did you mean 'lr'?",
            "c.yaml:2:1: epochs",
            "command line: seeds",
        ],
    ),
    "2 wrong type": Bad(GOOD, ["epochs=ten"], 2, ["command line: epochs: must be a whole number, got 'ten' (str)."]),
    "2 wrong choice": Bad(GOOD + "schedule: cosin\n", [], 2, ["c.yaml:3:1: schedule.name", "Did you mean 'cosine'?"]),
    "2 out of range": Bad(
        GOOD, ["losses.kd.temperature=-3"], 2, ["losses.kd.temperature: must be greater than 0, got -3."]
    ),
    "3 syntax": Bad("optim: {lr: 1, ]\n", [], 2, ["c.yaml:1:16", "1 | optim: {lr: 1, ]"]),
    "3 duplicate key": Bad(
        "epochs: 1\nseed: 2\nepochs: 3\n", [], 2, ["c.yaml:3:1: the key 'epochs' is given twice; first at c.yaml:1:1"]
    ),
    "3 tab": Bad("optim:\n\tlr: 1\n", [], 2, ["c.yaml:2:1: a tab"]),
    "3 not UTF-8": Bad(b"name: f\xfcnf\n", [], 2, ["c.yaml:1:8: not UTF-8: byte 0xFC"]),
    "5 python tag": Bad("name: !!python/object/apply:os.mkdir [ran]\n", [], 7, ["c.yaml:1:7", "carries no code"]),
    "5 import_call": Bad("data: !import_call {key: os.getcwd}\n", [], 7, ["!import_call", "carries no code"]),
    "5 alias bomb": Bad(BOMB, [], 7, ["c.yaml", "10000 values"]),
    "5 tag on the command line": Bad(GOOD, ["name=!!python/name:os.system x"], 7, ["carries no code"]),
    "6 unknown method": Bad(
        GOOD, ["--method", "fitnets"], 2, ["no such method: 'fitnets'. Did you mean 'fitnet'?", "potstill list methods"]
    ),
    "6 unknown loss": Bad(
        GOOD + "losses:\n  dkdd: {}\n",
        [],
        2,
        ["c.yaml:4:3: losses.dkdd: no such method. Did you mean 'dkd'?", "potstill list methods"],
    ),
    "7 a temperature where there is none": Bad(
        GOOD, ["--method", "at", "losses.at.temperature=2"], 2, ["losses.at.temperature: no such key"]
    ),
    "7 method and losses": Bad(
        GOOD + "method: kd\nlosses: {fitnet: {weight: 1}}\n",
        [],
        2,
        ["c.yaml:4:10: losses.fitnet: is not a loss of method 'kd' (c.yaml:3:1)"],
    ),
    "7 a flag and a setting": Bad(
        GOOD, ["--epochs", "3", "epochs=4"], 2, ["epochs: given twice: epochs=3 and epochs=4."]
    ),
    "7 made for the other command": Bad(
        "kind: train\nstudent: x\n", [], 2, ["c.yaml:1:1: kind: is 'train'", "potstill train"]
    ),
    "7 warmup longer than the training": Bad(
        GOOD + "epochs: 3\nschedule: {warmup: 3}\n", [], 2, ["c.yaml:4:12: schedule.warmup: must be shorter"]
    ),
}


@pytest.mark.parametrize("case", ROWS)
def test_bad_input(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = ROWS[case]
    monkeypatch.chdir(tmp_path)
    Path("c.yaml").write_bytes(bad.file if isinstance(bad.file, bytes) else bad.file.encode())
    code = run(["distill", "c.yaml", *bad.arguments])
    out, err = capsys.readouterr()
    assert (code, out) == (bad.code, "")
    for words in bad.says:
        assert words in err
    lines = err.splitlines()
    assert lines[0].startswith("error: ")
    assert len(lines) <= 6 or (
        lines[0].endswith("problems in the configuration") and all(line.startswith("  ") for line in lines[1:])
    )
    for jargon in ("Traceback", "pydantic", "Input should", "Usage:"):
        assert jargon not in err
    assert [p.name for p in tmp_path.iterdir()] == ["c.yaml"]


def test_a_byte_order_mark_is_accepted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("c.yaml").write_bytes(b"\xef\xbb\xbf" + GOOD.encode())
    assert run(["distill", "c.yaml", "--print-config"]) == 0
    assert "model: zoo:resnet8x4" in capsys.readouterr().out


def test_row_4_a_missing_file_names_the_nearest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("flowers.yaml").write_text(GOOD)
    assert run(["distill", "flower.yaml", "--teacher", "a"]) == 2
    assert capsys.readouterr().err == "error: no such file or recipe: flower.yaml. Did you mean 'flowers.yaml'?\n"


BATTERY: dict[str, tuple[str, list[str], int, str]] = {
    "YAML and two overrides": (GOOD, ["optim.lr=0.2", "seed=4", "--print-config"], 0, "lr: 0.2"),
    "unknown key on the command line": (
        GOOD,
        ["optim.learning_rate=0.1"],
        2,
        "optim.learning_rate: no such key. Did you mean 'lr'?",
    ),
    "wrong type": (GOOD, ["epochs=ten"], 2, "epochs: must be a whole number, got 'ten' (str)."),
    "wrong choice": (GOOD, ["precision=fp16"], 2, "precision: must be one of auto, 32, bf16, 16, got 'fp16' (str)."),
    "out of range": (GOOD, ["epochs=-3"], 2, "epochs: must be at least 1, got -3."),
    "unknown key in YAML": (
        GOOD + "optim: {learning_rate: 1}\n",
        [],
        2,
        "c.yaml:3:9: optim.learning_rate: no such key. Did you mean 'lr'?",
    ),
    "unknown key in a loss in YAML": (
        GOOD + "losses: {kd: {tempratur: 2}}\n",
        [],
        2,
        "c.yaml:3:15: losses.kd.tempratur: no such key.",
    ),
    "unknown loss": (GOOD + "losses: {crdd: {}}\n", [], 2, "c.yaml:3:10: losses.crdd: no such method."),
    "YAML syntax": ("losses: {kd: [}\n", [], 2, "c.yaml:1:15: not YAML"),
    "1e-3 is a number": (GOOD + "optim: {lr: 1e-3}\n", ["--print-config"], 0, "lr: 0.001"),
    "file missing": (GOOD, ["cc.yaml"], 2, "no such file or recipe: cc.yaml. Did you mean 'c.yaml'?"),
    "key given twice": (
        "epochs: 1\nepochs: 2\n",
        [],
        2,
        "c.yaml:2:1: the key 'epochs' is given twice; first at c.yaml:1:1",
    ),
    "all errors at once": (GOOD + "epochs: x\nseed: y\n", [], 2, "error: 2 problems in the configuration"),
}


@pytest.mark.parametrize("case", BATTERY)
def test_the_battery_for_parsers(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file, arguments, expected, says = BATTERY[case]
    monkeypatch.chdir(tmp_path)
    Path("c.yaml").write_text(file)
    code = run(["distill", "c.yaml", *arguments])
    out, err = capsys.readouterr()
    assert code == expected
    assert says in (err if expected else out)
    assert (out == "") == bool(expected)
    assert len(err.splitlines()) <= 6
    assert "Traceback" not in err
    assert [p.name for p in tmp_path.iterdir()] == ["c.yaml"]


def test_a_refused_file_ran_nothing(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("name: !!python/object/apply:os.mkdir [ran]\n")
    done = subprocess.run(
        [sys.executable, "-m", "potstill.cli", "distill", "c.yaml"], capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == 7
    assert not (tmp_path / "ran").exists()
