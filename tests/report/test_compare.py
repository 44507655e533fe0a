import csv
import io
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from potstill.errors import ConfigError
from potstill.report import compare, compare_csv, compare_table, report
from potstill.report.compare import Row, notices
from tests.report.checker import Page

LOWER = 0.3


@pytest.fixture
def two(run: Path, edit: Callable[..., Path], tmp_path: Path) -> list[Path]:
    """The run, and another with the same control whose student is worse by 30 points and gains nothing that is sure."""
    import json

    other = Path(shutil.copytree(run, tmp_path / "other"))
    edit(lambda f: f.update(name="other", method="[red]at+kd"), other)
    edit(lambda f: f["results"]["difference"].update(mean=0.107, low=-0.02, high=0.234), other)
    for file in other.glob("student-s?/result.json"):
        result = json.loads(file.read_text())
        result["last"]["test"]["top1"] -= LOWER
        file.write_text(json.dumps(result))
    return [other, run]


def shown(rows: list[Row]) -> str:
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(compare_table(rows))
    return console.export_text()


def test_rows_are_sorted_and_a_shared_control_is_listed_once(two: list[Path]) -> None:
    rows = compare(two)
    assert [r.method for r in rows] == ["kd", "[red]at+kd", "alone"]
    assert rows[0].top1 is not None
    assert rows[1].top1 is not None
    assert rows[0].top1["mean"] - rows[1].top1["mean"] == pytest.approx(LOWER)
    assert [r.difference is None for r in rows] == [False, False, True]
    assert [(r.seeds, r.parameters, r.bytes, r.seconds) for r in rows] == [(3, 610, 2440, 2.5)] * 3


def test_a_control_of_another_budget_is_another_line(two: list[Path], edit: Callable[..., Path]) -> None:
    edit(lambda f: f["budget"].update(epochs=40), two[0])
    rows = compare(two)
    assert [r.method for r in rows].count("alone") == 2
    assert notices(rows) == ["The runs differ in their numbers of epochs: 20.0, 40.0. Compare such lines with care."]


def test_the_table_says_what_is_not_significant_and_reads_no_markup(two: list[Path]) -> None:
    text = shown(compare(two))
    assert "[red]at+kd" in text
    line = next(li for li in text.splitlines() if "at+kd" in li)
    assert "+10.7 [−2.0, +23.4] n.s." in line
    assert text.count("n.s.") == 1
    assert "93.6\u00a0±\u00a03.9" in text


def test_unlike_data_one_seed_and_unfinished_runs_are_noted(two: list[Path], edit: Callable[..., Path]) -> None:
    edit(lambda f: f["data"].update(fingerprint="other"), two[0])
    edit(lambda f: f.update(status="running"), two[0])
    for trial in [*two[0].glob("*-s1"), *two[0].glob("*-s2")]:
        shutil.rmtree(trial)
    text = shown(compare(two))
    for part in ("differ in their data", "other has not finished (status: running)", "one seed have no spread"):
        assert part in " ".join(text.split())


def test_csv_holds_what_the_rows_hold(two: list[Path]) -> None:
    rows = compare(two)
    read = list(csv.DictReader(io.StringIO(compare_csv(rows))))
    assert [r["method"] for r in read] == [r.method for r in rows]
    for line, row in zip(read, rows, strict=True):
        assert row.top1 is not None
        assert float(line["top1_mean"]) == row.top1["mean"]
        assert float(line["top1_std"]) == row.top1["std"]
        assert line["difference_low"] == ("" if row.difference is None else str(row.difference["low"]))


def test_nothing_finished_goes_last(two: list[Path], edit: Callable[..., Path]) -> None:
    for trial in two[1].glob("*-s?"):
        shutil.rmtree(trial)
    edit(lambda f: f.update(results=None, status="failed"), two[1])
    rows = compare(two)
    assert [r.method for r in rows] == ["[red]at+kd", "alone", "kd"]
    assert "–" in shown(rows)
    report(two, two[0].parent / "page.html")


def test_what_is_no_run_is_refused(two: list[Path], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="run directory"):
        compare([*two, tmp_path / "nothing"])


def test_the_page(two: list[Path], edit: Callable[..., Path], tmp_path: Path) -> None:
    edit(lambda f: f.update(method="<script>alert(1)</script>"), two[0])
    edit(lambda f: f["student"].update(parameters=61000), two[0])
    page = Page(report(two, tmp_path / "page.html").read_text())
    assert page.faults == []
    assert [a["id"] for a in page.all("section")] == ["board", "lines", "trade"]
    assert len(page.all("svg")) == 2
    assert "script" not in {t for t, _ in page.elements}
    assert page.text.count("<script>alert(1)</script>") >= 4  # table, both figures, their descriptions
    assert "http" not in page.html.replace("http-equiv", "")
    assert "kd has the highest mean, 93.6" in page.text
