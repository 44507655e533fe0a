from typing import Any

import numpy as np
import pytest

from potstill.report import curves, svg


def numbers(**values: dict[int, float]) -> dict[str, Any]:
    """One student curve a name, with its validation top-1 by epoch."""
    return {
        "curves": [
            {"role": "student", "epochs": [{"epoch": e, "val": {"top1": y}} for e, y in line.items()]}
            for line in values.values()
        ]
    }


def test_series_leaves_out_what_is_not_finite_and_takes_the_last_of_an_epoch_written_twice() -> None:
    v = numbers(a={1: 0.1, 2: float("nan"), 3: 0.3})
    v["curves"][0]["epochs"].append({"epoch": 1, "val": {"top1": 0.5}})
    (x, y), *_ = curves.series(v, "student", "val", "top1")
    assert (x.tolist(), y.tolist()) == ([1, 3], [0.5, 0.3])


def test_the_thick_line_is_the_mean_over_the_epochs_that_all_seeds_have() -> None:
    with svg.style():
        _, axes = svg.figure(100, 100)
        runs = curves.series(numbers(a={1: 0.1, 2: 0.2, 3: 0.9}, b={2: 0.4, 3: 0.1, 4: 0.0}), "student", "val", "top1")
        curves.strands(axes[0, 0], runs, svg.STUDENT, 100, 100)
        thin_a, thin_b, thick = axes[0, 0].lines
    assert len(thin_a.get_xdata()) == len(thin_b.get_xdata()) == 3
    assert thick.get_xdata().tolist() == [2, 3]
    assert thick.get_ydata() == pytest.approx([30, 50])
    assert thick.get_linewidth() > thin_a.get_linewidth()


@pytest.mark.parametrize(("n", "most", "kept"), [(0, 50, 0), (1, 50, 1), (40, 50, 40), (1000, 50, 50), (1000, 3, 30)])
def test_thinned_keeps_both_ends(n: int, most: int, kept: int) -> None:
    places = curves.thinned(n, most)
    assert len(places) == kept
    if n:
        assert (places[0], places[-1]) == (0, n - 1)
        assert np.diff(places).max(initial=0) <= n / kept * 1.5


def test_the_teacher_is_drawn_at_its_validation_accuracy_or_else_at_its_test_accuracy() -> None:
    table = {"teacher": {"last": {"top1": {"mean": 0.9}}}}
    assert curves.teacher_level({"teacher_val": 0.8, "table": table}) == 0.8
    assert curves.teacher_level({"teacher_val": None, "table": table}) == 0.9
    assert curves.teacher_level({"teacher_val": None, "table": {"teacher": None}}) is None


def test_link_names_begin_with_the_students() -> None:
    v = {
        "curves": [
            {"role": "control", "epochs": [{"train": {"links": {"ce": 1}}}]},
            {"role": "teacher", "epochs": [{"train": {"links": {"own": 1}}}]},
            {
                "role": "student",
                "epochs": [{"train": {"links": {"kd": 1, "ce": 1}}}, {"train": {"links": {"at": 1}}}, {}],
            },
        ]
    }
    assert curves.link_names(v) == ["kd", "ce", "at"]
