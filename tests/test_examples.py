"""The examples run, and every command that README and docs show is one that potstill understands."""

import re
import runpy
import shlex
from pathlib import Path

import pytest

from potstill.cli import run

ROOT = Path(__file__).parents[1]


def test_two_modules(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runpy.run_path(str(ROOT / "examples" / "two_modules.py"))["main"](1, str(tmp_path))
    assert "'n': 3" in capsys.readouterr().out


def test_own_loop(capsys: pytest.CaptureFixture[str]) -> None:
    runpy.run_path(str(ROOT / "examples" / "own_loop.py"))["main"](6)
    accuracy = float(re.search(r"([\d.]+) %", capsys.readouterr().out).group(1))  # type: ignore[union-attr]
    assert accuracy > 40


def commands() -> list[str]:
    found = []
    for file in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))):
        for line in file.read_text("utf-8").splitlines():
            shown = re.match(r" {4}(?:\$ )?(potstill (?:distill|train) .*)", line)
            if shown and "..." not in line:
                found.append(shown.group(1))
    return found


@pytest.mark.parametrize("command", commands())
def test_every_command_that_is_shown_is_understood(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(["cp", "digits", "my.yaml"]) == 0  # what the pages call so
    arguments = shlex.split(command, comments=True)[1:]
    assert run([*arguments, *([] if "--print-config" in arguments else ["--print-config"])]) == 0


def test_commands_were_found() -> None:
    assert len(commands()) >= 6
