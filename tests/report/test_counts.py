import numpy as np
import pytest

from potstill.report import counts
from potstill.report.read import Said

rng = np.random.default_rng(0)


def said(top: np.ndarray, y: np.ndarray, confidence: np.ndarray | None = None) -> Said:
    return Said(top, np.full(len(y), 0.5, np.float32) if confidence is None else confidence, y)


def test_flips_are_the_pictures_that_only_one_has_right() -> None:
    y = np.array([0, 1, 2, 3, 4])
    assert counts.flips(said(np.array([0, 1, 2, 0, 0]), y), said(np.array([0, 0, 0, 3, 0]), y)) == (2, 1)


def test_calibration_against_a_plain_loop() -> None:
    confidence = rng.uniform(0.1, 1, 400).astype(np.float32)
    y = rng.integers(0, 3, 400)
    top = rng.integers(0, 3, 400)
    rows = counts.calibration([said(top[:150], y[:150], confidence[:150]), said(top[150:], y[150:], confidence[150:])])
    expected = []
    for b in range(15):
        inside = [i for i in range(400) if b / 15 < float(confidence[i]) - 1e-9 <= (b + 1) / 15]
        if inside:
            expected.append((len(inside), np.mean(confidence[inside]), np.mean(top[inside] == y[inside])))
    assert [r["n"] for r in rows] == [e[0] for e in expected]
    assert [r["confidence"] for r in rows] == pytest.approx([e[1] for e in expected], rel=1e-6)
    assert [r["accuracy"] for r in rows] == pytest.approx([e[2] for e in expected])


def test_the_end_of_a_bin_belongs_to_it() -> None:
    ends = np.array([0.25, 0.5, 0.75, 1.0], np.float32)
    rows = counts.calibration([said(np.zeros(4, np.int64), np.array([0, 1, 1, 1]), ends)], bins=4)
    assert [(r["confidence"], r["accuracy"], r["n"]) for r in rows] == [
        (e, a, 1) for e, a in zip(ends, (1, 0, 0, 0), strict=True)
    ]


def test_class_accuracy_is_the_mean_over_nets_and_nan_without_pictures() -> None:
    y = np.array([0, 0, 2, 2])
    accuracy, n = counts.class_accuracy([said(np.array([0, 1, 2, 2]), y), said(np.array([0, 0, 1, 2]), y)], 4)
    assert n.tolist() == [2, 0, 2, 0]
    assert accuracy[[0, 2]].tolist() == [0.75, 0.75]
    assert np.isnan(accuracy[[1, 3]]).all()
