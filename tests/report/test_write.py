import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from potstill.errors import ConfigError, MachineError
from potstill.report import report
from potstill.report.write import finite


def test_one_run_gets_its_page_and_numbers_and_nothing_else(run: Path) -> None:
    before = {p.name for p in run.iterdir()}
    assert report(run) == run / "report.html"
    assert {p.name for p in run.iterdir()} - before == {"report.html", "report.json"}
    numbers = json.loads((run / "report.json").read_text())
    assert numbers["table"]["student"]["last"]["top1"]["n"] == 3
    assert len(numbers["classes"]) == 10


def test_the_same_run_gives_the_same_bytes_without_torch_or_pyplot(run: Path, tmp_path: Path) -> None:
    """In another process, with other hashes, its own matplotlib settings, and no torch to import."""
    (tmp_path / "matplotlibrc").write_text("font.size: 30\nxtick.major.size: 20\nsvg.fonttype: path\nbackend: tkagg\n")
    code = (
        "import sys; sys.modules['torch'] = None; from potstill.report import report; "
        f"report({str(run)!r}, {str(tmp_path / 'b.html')!r}); assert 'matplotlib.pyplot' not in sys.modules"
    )
    env = {**os.environ, "PYTHONHASHSEED": "7", "MATPLOTLIBRC": str(tmp_path)}
    subprocess.run([sys.executable, "-c", code], check=True, env=env, cwd=tmp_path)
    assert report(run, tmp_path / "a.html").read_bytes() == (tmp_path / "b.html").read_bytes()
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()


def test_reporting_leaves_matplotlib_as_it_was(run: Path, tmp_path: Path) -> None:
    import matplotlib as mpl

    with mpl.rc_context({"font.size": 33}):
        before = dict(mpl.rcParams)
        report(run, tmp_path / "a.html")
        assert dict(mpl.rcParams) == before


def test_several_runs_get_a_comparison(
    finished: Path, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert report([finished, run]) == Path("compare.html")
    assert len(json.loads(Path("compare.json").read_text())["rows"]) == 3  # two students, one control that both share


def test_a_page_that_cannot_be_written(run: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(MachineError, match="cannot be written") as fault:
        report(run, tmp_path / "file" / "page.html")
    assert "page.html" in str(fault.value)


def test_the_page_may_not_take_the_name_of_its_numbers(run: Path) -> None:
    with pytest.raises(ConfigError, match=r"must not end in \.json"):
        report(run, "page.json")


def test_no_run_is_refused() -> None:
    with pytest.raises(ConfigError):
        report([])


def test_finite() -> None:
    assert finite({1: [float("nan"), (float("inf"), 2.0)], "a": None}) == {"1": [None, [None, 2.0]], "a": None}
