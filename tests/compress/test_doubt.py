"""A loss of accuracy is held against chance."""

from __future__ import annotations

from math import comb
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from potstill.compress.doubt import LEAST, LEVEL, blind, changed, proven, unproven
from potstill.compress.verify import notices


def answers(worse: int, better: int, both: int = 20, neither: int = 10) -> dict[str, Any]:
    """Of that many pictures; class 0 is right."""
    right = [(1, 0)] * worse + [(0, 1)] * better + [(1, 1)] * both + [(0, 0)] * neither
    floats, z = (F.one_hot(torch.tensor([1 - pair[i] for pair in right]), 3).float() for i in (0, 1))
    n = len(right)
    return {**changed(z, floats, torch.zeros(n, dtype=torch.long)), "n": n, "drop": 100 * (worse - better) / n}


@pytest.mark.parametrize(("worse", "better"), [(5, 0), (4, 0), (7, 4), (30, 12), (2, 9), (0, 3), (0, 0)])
def test_the_chance_is_that_of_a_coin(worse: int, better: int) -> None:
    found = answers(worse, better)
    assert (found["worse"], found["better"]) == (worse, better)
    m = worse + better
    assert found["chance"] == pytest.approx(sum(comb(m, k) for k in range(worse, m + 1)) / 2**m)
    assert answers(worse, better, both=500, neither=300)["chance"] == found["chance"]  # they say nothing


def test_so_many_must_fall_before_it_is_proof() -> None:
    assert [proven(answers(LEAST, 0)), proven(answers(LEAST - 1, 0))] == [True, False]
    assert proven(answers(30, 12))
    assert not proven(answers(12, 30))


def test_a_drop_that_may_be_chance_is_told_and_how_many_pictures_would_tell() -> None:
    row = {
        "name": "x.onnx",
        "precision": "int8",
        "contended": False,
        "val": {**answers(7, 4, 160, 9), "agreement": 0.99},
    }
    said = unproven(row, 1.0)
    assert said is not None
    assert said.startswith("cannot tell with 180 validation pictures whether x.onnx is worse: it loses 1.67 points")
    assert "in 27 % of cases" in said
    enough = int(said.partition("about ")[2].partition(" such")[0].replace(",", ""))
    times = enough / 180  # the same shares of so many pictures are proof, of a fifth fewer they are not
    assert proven(answers(round(7 * times), round(4 * times)))
    assert not proven(answers(round(7 * 0.8 * times), round(4 * 0.8 * times)))
    assert unproven(row, 2.0) is None  # it is allowed
    assert unproven({**row, "val": {**answers(30, 12), "agreement": 0.9}}, 1.0) is None  # it is proven
    few = "180 validation pictures prove no loss below 2.8 points, 1 are allowed: smaller ones pass"
    assert notices([row]) == [said, few]
    assert notices([{**row, "precision": "float32"}]) == [said]
    assert notices([row], 3.0) == []


def test_when_pictures_are_enough() -> None:
    assert blind(500, 1.0) is None
    assert "1.0 points" in str(blind(499, 1.0))
    assert 0.5**LEAST < LEVEL < 0.5 ** (LEAST - 1)
