"""Runs whose teacher is asked once for each view."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

import potstill
from potstill.cache import Shelf
from potstill.errors import ConfigError
from potstill.taps import Frozen


def distil(teacher: Path, out: Path, name: str, data: Any = "digits", **settings: Any) -> Any:
    settings = {"epochs": 3, "control": False, "track": [], "quiet": True, **settings}
    return potstill.distill(
        str(teacher), "zoo:cnn(widths=(4, 8))", data, method="at+kd", out=str(out), name=name, **settings
    )


def weights(run: Any) -> dict[str, Any]:
    return load_file(run.path / "student.safetensors")


def journal(run: Any) -> list[str]:
    return (run.path / "control-s0" / "metrics.jsonl").read_text().splitlines()


def test_a_run_fills_its_cache_and_the_next_one_does_not_ask(
    teacher_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = {"views": 2, "dir": str(tmp_path / "c")}
    asked = []
    forward = Frozen.forward

    def counted(self: Frozen, x: Any) -> Any:
        asked.append(len(x))
        return forward(self, x)

    monkeypatch.setattr(Frozen, "forward", counted)
    first = distil(teacher_run, tmp_path, "first", cache=cache, control=True)
    (row,) = Shelf(tmp_path / "c").rows()
    assert row["finished"]
    assert row["views"] == 2
    assert "logits" in row["spots"]
    assert len(row["spots"]) > 1
    filling = sum(asked)
    assert filling >= 2 * row["samples"]
    asked.clear()
    second = distil(teacher_run, tmp_path, "second", cache=cache)
    assert sum(asked) < row["samples"], "only the preflight and the check of 1 % ask"
    monkeypatch.undo()
    plain = distil(teacher_run, tmp_path / "apart", "plain", control=True)  # controls of one folder are shared
    alone = [[json.loads(row)["train"] for row in journal(run)] for run in (first, plain)]
    assert len(alone[0]) == 3
    assert alone[0] == alone[1], "the student alone is not kept to the teacher's few views"
    a, b = weights(first), weights(second)
    assert all((a[k] == b[k]).all() for k in a)


def test_blended_pictures_are_refused_before_anything_runs(teacher_run: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="mixup"):
        distil(teacher_run, tmp_path, "x", cache=True, data={"source": "digits", "augment": {"mixup": 0.2}})
