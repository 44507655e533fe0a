"""A run that is killed and resumed is the run that was not. `benchmarks/kill.py` does it many times more."""

import random
from pathlib import Path

import pytest
from benchmarks.kill import killed, outcome, teacher


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_kills_are_not_noticed(workers: int, tmp_path: Path) -> None:
    taught, rng = teacher(tmp_path), random.Random(workers)
    assert killed(tmp_path / "whole", taught, workers, 0, rng)[0] == 0
    struck = tries = 0
    while struck < 2 and tries < 4:
        folder = tmp_path / f"torn{tries}"
        struck += killed(folder, taught, workers, 2, rng)[0]
        assert outcome(folder) == outcome(tmp_path / "whole")
        tries += 1
    assert struck >= 2, "the kills must really happen"
