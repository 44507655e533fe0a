"""What seeds say, against scipy and by hand."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from scipy import stats as reference

from potstill.stats import paired, summary


def test_summary() -> None:
    assert summary([1, 2, 4]) == {
        "mean": pytest.approx(7 / 3),
        "std": pytest.approx(1.5275252),
        "n": 3,
        "values": [1.0, 2.0, 4.0],
    }
    assert summary([0.5]) == {"mean": 0.5, "std": None, "n": 1, "values": [0.5]}
    assert summary([1, 1])["std"] == 0
    assert type(summary(np.array([1, 2]))["mean"]) is float  # type: ignore[arg-type]


@pytest.mark.parametrize("n", [2, 3, 5, 30])
def test_paired_against_scipy(n: int) -> None:
    rng = np.random.default_rng(n)
    a, b = rng.normal(0.3, 1, n), rng.normal(0, 1, n)
    test = reference.ttest_rel(a, b)
    low, high = test.confidence_interval(0.95)
    got = paired(list(a), list(b))
    assert got["mean"] == pytest.approx((a - b).mean())
    assert (got["low"], got["high"]) == (pytest.approx(low), pytest.approx(high))
    assert got["significant"] == (test.pvalue < 0.05)
    assert got["n"] == n
    assert f"{n} seeds" in got["how"]


def test_pairing_matters() -> None:
    seeds = [0.70, 0.80, 0.90]
    better = [s + d for s, d in zip(seeds, (0.010, 0.011, 0.012), strict=True)]
    assert paired(better, seeds)["significant"]
    assert not paired(better, seeds[::-1])["significant"]
    assert paired(seeds, better)["significant"]  # worse, and surely so
    assert paired(seeds, better)["high"] < 0


def test_one_seed_is_never_significant() -> None:
    got = paired([0.9], [0.1])
    assert got["mean"] == pytest.approx(0.8)
    assert (got["low"], got["high"], got["significant"], got["n"]) == (None, None, False, 1)
    assert "one seed" in got["how"]


def test_equal_runs_differ_by_nothing() -> None:
    got = paired([0.5, 0.6], [0.5, 0.6])
    assert (got["mean"], got["low"], got["high"], got["significant"]) == (0, 0, 0, False)


def test_the_interval_covers_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    hits = 0
    for _ in range(2000):
        a, b = rng.normal(0.2, 1, 5), rng.normal(0, 1, 5)
        got = paired(list(a), list(b))
        hits += got["low"] <= 0.2 <= got["high"]
    assert hits / 2000 == pytest.approx(0.95, abs=0.015)


@pytest.mark.parametrize("wrong", [[], [float("nan"), 1.0], [float("inf")], [[1.0]]])
def test_wrong_values(wrong: list[float]) -> None:
    with pytest.raises(ValueError, match="finite value a seed"):
        summary(wrong)


def test_not_as_many_of_each() -> None:
    with pytest.raises(ValueError, match="3 and 2"):
        paired([1, 2, 3], [1, 2])


def test_no_torch() -> None:
    code = "import sys; from potstill.stats import paired; paired([1, 2], [0, 2]); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
