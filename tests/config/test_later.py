"""What a configuration says of a sweep is held to the schema, each fault in its place."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from potstill.config.load import resolve
from potstill.errors import ConfigError

NETS = {"teacher.model": "resnet14", "student.model": "resnet8"}


def resolved(folder: Path, text: str, *overrides: str) -> Any:
    path = folder / "my.yaml"
    path.write_text(text)
    return resolve([str(path)], list(overrides), NETS).config


def problems(folder: Path, text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        resolved(folder, text)
    return str(caught.value)


def test_a_sweep_is_read_with_its_defaults(tmp_path: Path) -> None:
    config = resolved(tmp_path, "sweep:\n  over: {optim.lr: 0.01..0.5, method: [kd, dkd]}\n", "sweep.trials=7")
    assert config.sweep.model_dump() == {
        "trials": 7,
        "over": {"optim.lr": "0.01..0.5", "method": ["kd", "dkd"]},
        "against": None,
        "stop": True,
        "recover": None,
        "workers": 1,
    }
    assert resolve([], [], NETS).config.sweep is None


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("  againt: macs", "my.yaml:2:3: sweep.againt: no such key. Did you mean 'against'?"),
        ("  against: flops", "my.yaml:2:3: sweep.against: must be one of parameters, macs, bytes, latency"),
        ("  trials: 0", "my.yaml:2:3: sweep.trials: must be at least 1, got 0"),
        ("  over: {losses.kd.temprature: 1..20}", "my.yaml:2:10: sweep.over.losses.kd.temprature: no such key."),
        ("  over: {losses: {kd: {temprature: 1..20}}}", "my.yaml:2:24: sweep.over.losses.kd.temprature: no such key."),
        ("  over: {optim.lr: -1..1}", "sweep.over.optim.lr: must be greater than 0, got -1"),
        ("  over: {optim.lr: 5..1}", "sweep.over.optim.lr: the range is empty"),
        ("  over: {epochs: [2, ten]}", "sweep.over.epochs: must be a whole number, got 'ten'"),
        ("  over: {method: [kd, dits]}", "sweep.over.method: no such method: 'dits'. Did you mean 'dist'?"),
        ("  over: {prune: 0..1}", "sweep.over.prune: is a share of the channels"),
        ("  over: {student: [a, b], student.model: [c, d]}", "sweep.over.student.model: student.model is varied twice"),
    ],
)
def test_what_is_wrong_is_told_in_its_place(tmp_path: Path, line: str, says: str) -> None:
    assert says in problems(tmp_path, f"sweep:\n{line}\n")


def test_all_faults_are_told_at_once(tmp_path: Path) -> None:
    said = problems(tmp_path, "sweep:\n  over:\n    optim.lr: 5..1\n    losses.kd.weight: [1, -1]\n")
    assert "2 problems" in said
    assert "my.yaml:3:5" in said
    assert "my.yaml:4:5: sweep.over.losses.kd.weight: must be at least 0, got -1" in said
