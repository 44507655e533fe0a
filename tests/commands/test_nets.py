"""``potstill inspect`` of nets that know their pictures."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from potstill.cli import run as cli


def shapes(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[list[int], dict[str, list[int]]]:
    assert cli(["inspect", *arguments, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    return found["input"], {row["path"]: row["shape"] for row in found["layers"]}


def test_a_trained_net_is_shown_at_its_own_size(teacher_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    size, own = shapes(capsys, str(teacher_run))
    assert size == [1, 8, 8]  # the digits
    first = next(shape for shape in own.values() if len(shape) == 3)
    assert first[1:] == [8, 8]
    assert shapes(capsys, str(teacher_run), "--input", "1x16x16")[0] == [1, 16, 16]
    assert shapes(capsys, "zoo:resnet8")[0] == [3, 32, 32]
    assert cli(["inspect", "--pair", "zoo:cnn", str(teacher_run), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["input"] == [1, 8, 8]
