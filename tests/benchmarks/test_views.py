"""The rows of benchmarks/views.py: each once, shared by its parts, compared by seed."""

import json
from pathlib import Path

import pytest
from benchmarks import views


def test_rows_are_each_made_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    made: list[tuple[str, int]] = []

    def measure(variant: str, seed: int, *_: object) -> dict[str, object]:
        made.append((variant, seed))
        return {"variant": variant, "seed": seed, "top1": 0.1, "agreement": 0.2, "cpu": 1.0, "seconds": 1.0}

    monkeypatch.setattr(views, "RESULTS", tmp_path / "views.jsonl")
    monkeypatch.setattr(views, "measure", measure)
    for arguments in (["--rows", "2"], ["--part", "0/2"], ["--part", "1/2"], []):
        monkeypatch.setattr("sys.argv", ["views", *arguments])
        views.main()
    assert sorted(made) == sorted(views.jobs(fast=False))
    assert len(made) == 15


def test_differences_are_paired_by_seed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(views, "RESULTS", tmp_path / "views.jsonl")
    live, four = {0: 0.10, 1: 0.12, 2: 0.14}, {2: 0.15, 0: 0.11, 1: 0.13}
    lines = [
        {"variant": v, "seed": s, "top1": t, "agreement": 0.5, "cpu": 60.0}
        for v, by in (("live", live), ("4 views", four))
        for s, t in by.items()
    ]
    views.RESULTS.write_text("".join(json.dumps(line) + "\n" for line in lines))
    shown = {line.split(" | ")[0]: line for line in views.table().splitlines()}
    assert "12.00 ± 2.00" in shown["| live"]
    assert "+1.00 [+1.00, +1.00]" in shown["| 4 views"]
