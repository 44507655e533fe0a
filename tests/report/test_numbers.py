import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from potstill.report.numbers import collect
from potstill.report.read import read


def results(run: Path, role: str) -> list[float]:
    return [json.loads((run / f"{role}-s{s}" / "result.json").read_text())["last"]["test"]["top1"] for s in (0, 1, 2)]


def test_the_table_is_the_mean_over_the_trials(finished: Path) -> None:
    table = collect(read(finished))["table"]
    top1 = table["student"]["last"]["top1"]
    assert top1["mean"] == pytest.approx(np.mean(results(finished, "student")))
    assert top1["std"] == pytest.approx(np.std(results(finished, "student"), ddof=1))
    assert table["control"]["last"]["top1"]["values"] == results(finished, "control")
    assert table["teacher"]["last"]["top1"]["std"] is None
    assert table["student"]["best"]["top1"]["mean"] != table["student"]["last"]["top1"]["mean"]


def test_the_difference_of_the_run_is_kept_and_made_anew_where_it_is_not_there(
    finished: Path, run: Path, edit: Callable[..., Path]
) -> None:
    recorded = collect(read(finished))["difference"]
    edit(lambda facts: facts.update(results=None))
    again = collect(read(run))["difference"]
    assert {k: again[k] for k in ("mean", "low", "high", "n")} == pytest.approx(
        {k: recorded[k] for k in ("mean", "low", "high", "n")}, rel=1e-5
    )


@pytest.mark.parametrize(("low", "high", "significant"), [(-0.01, 0.03, False), (0.0, 0.03, False), (0.01, 0.03, True)])
def test_significant_is_judged_by_the_interval_not_by_the_claim(
    run: Path, edit: Callable[..., Path], low: float, high: float, significant: bool
) -> None:
    edit(lambda f: f["results"]["difference"].update(low=low, high=high, significant=not significant))
    assert collect(read(run))["difference"]["significant"] is significant


def test_one_pair_gives_no_interval_and_nothing_significant(run: Path, edit: Callable[..., Path]) -> None:
    for name in ("student-s1", "student-s2", "control-s1", "control-s2"):
        shutil.rmtree(run / name)
    edit(lambda f: f.update(results=None, seeds=[0]))
    v = collect(read(run))
    assert v["difference"]["mean"] == v["seeds"][0]["difference"]
    assert (v["difference"]["low"], v["difference"]["high"], v["difference"]["significant"]) == (None, None, False)


def test_flips_explain_the_difference_of_each_seed(finished: Path) -> None:
    for row in collect(read(finished))["seeds"]:
        assert (row["only_student"] - row["only_control"]) / 540 == pytest.approx(row["difference"], abs=2 / 540)


def test_classes_average_to_the_accuracy(finished: Path) -> None:
    v = collect(read(finished))
    rows = v["classes"]
    assert sum(r["n"] for r in rows) == v["test"]["n"] == 540
    for role in ("teacher", "student", "control"):
        mean = sum(r["n"] * r[role] for r in rows) / 540
        assert mean == pytest.approx(v["table"][role]["last"]["top1"]["mean"], abs=2 / 540)
        assert sum(b["n"] * b["accuracy"] for b in v["calibration"][role]) / sum(
            b["n"] for b in v["calibration"][role]
        ) == pytest.approx(mean)


def test_a_recorded_accuracy_that_the_logits_do_not_give_is_found(run: Path) -> None:
    assert [c["same"] for c in collect(read(run))["checks"]] == [True] * 7
    file = run / "student-s1" / "result.json"
    result = json.loads(file.read_text())
    result["last"]["test"]["top1"] += 0.01
    file.write_text(json.dumps(result))
    assert [c["net"] for c in collect(read(run))["checks"] if not c["same"]] == ["student-s1"]


def test_gap_and_size(finished: Path) -> None:
    v = collect(read(finished))
    t, s, c = (v["table"][r]["last"]["top1"]["mean"] for r in ("teacher", "student", "control"))
    assert v["gap_closed"] == pytest.approx((s - c) / (t - c))
    assert v["smaller"]["parameters"] == 4810 / 610


def test_no_gap_is_closed_where_there_is_none(run: Path, edit: Callable[..., Path]) -> None:
    edit(lambda f: f["results"]["teacher"]["test"].update(top1=0.53))
    assert collect(read(run))["gap_closed"] is None


def test_no_gap_is_told_from_unlike_numbers_of_seeds(run: Path) -> None:
    shutil.rmtree(run / "control-s2")
    assert collect(read(run))["gap_closed"] is None


def test_a_half_finished_run_gives_the_numbers_of_what_has_finished(run: Path, edit: Callable[..., Path]) -> None:
    for name in ("student-s2", "control-s2"):
        (run / name / "result.json").unlink()
    edit(lambda f: f.update(results=None, status="running"))
    v = collect(read(run))
    assert v["table"]["student"]["last"]["top1"]["values"] == results_of_two(run)
    assert v["difference"]["n"] == 2
    assert v["seeds"][2]["difference"] is None
    assert v["table"]["teacher"]["last"]["top1"]["mean"] == pytest.approx(0.97, abs=0.01)  # counted from its logits
    assert len(v["curves"]) == 6


def results_of_two(run: Path) -> list[float]:
    return [json.loads((run / f"student-s{s}" / "result.json").read_text())["last"]["test"]["top1"] for s in (0, 1)]
