"""The page of a compression, from its chain.json alone."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from potstill.errors import ConfigError
from potstill.report import compression, report
from tests.report.checker import Page


def measures(top1: float, agreement: float = 0.9) -> dict[str, dict[str, Any]]:
    return {s: {"top1": top1, "agreement": agreement} for s in ("val", "test")}


def chain(files: bool = True) -> dict[str, Any]:
    def net(name: str, top1: float, parameters: int, **more: Any) -> dict[str, Any]:
        cost = {"parameters": parameters, "macs": 100 * parameters, "bytes": 4 * parameters}
        return {"name": name, "settings": {"ratio": 0.5, "limits": {}}, "facts": {**measures(top1), **cost, **more}}

    def artefact(name: str, top1: float, size: int, ms: float, **more: Any) -> dict[str, Any]:
        row = {
            "name": name,
            "runtime": "onnxruntime",
            "precision": "int8",
            "bytes": size,
            "latency_ms": ms,
            "cpu_ms": ms,
        }
        return {**row, "contended": False, **measures(top1), **more}

    spread = {"mean": 0.8, "std": 0.01, "n": 2, "values": [0.79, 0.81]}
    back = {k: {"last": {"top1": spread}} for k in ("labels", "distilled")}
    difference = {"mean": 0.015, "low": None, "high": None, "significant": False}
    worst = {"top1": 0.78, "agreement": 0.97, "drop": 2.0, "worst_class": {"class": "<b>cat</b>", "drop": 12.5}}
    rows = [artefact("teacher", 0.9, 40000, 2.0), artefact("student", 0.8, 20000, 1.0)]
    rows.append({**artefact("student.int8.onnx", 0.79, 5000, 0.25), "val": worst})
    stages = [
        net("0-student", 0.9, 10000),
        net("1-prune", 0.5, 5000, cut=measures(0.123), notices=["a note <i>"]),
        net("2-recover", 0.8, 5000, before=measures(0.5), difference=difference, **back),
        *([{"name": "3-verify", "settings": {}, "facts": {"artefacts": rows}}] if files else []),
    ]
    return {"format": 1, "status": "done", "model": "zoo:resnet20", "stages": stages}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "chain.json").write_text(json.dumps(chain()))
    return tmp_path


def test_the_page_says_what_was_lost_and_won(folder: Path) -> None:
    html = report(folder).read_text("utf-8")
    page = Page(html)
    assert not page.faults
    assert "zoo:resnet20, 8× smaller, −11.0 points of accuracy" in page.text  # 40 kB at 90 % to 5 kB at 79 %
    assert page.text.count("2×") >= 2  # parameters and multiply-adds of the net
    row = re.search(r"student\.int8\.onnx.*?cat", page.text)
    assert row
    assert all(
        said in row[0] for said in ("8×", "0.25", "2.00")
    )  # smaller and faster than the teacher, ms, points lost
    assert "12.30" in page.text  # just cut
    assert "80.00 ± 1.00" in page.text.replace("\xa0", " ")
    assert "<b>cat" not in html
    assert "a note <i>" not in html
    assert len(page.all("svg")) == 1
    said = json.loads((folder / "report.json").read_text())
    assert [f["name"] for f in said["files"]] == ["teacher", "student", "student.int8.onnx"]


def test_without_files_the_nets_of_the_stages_are_drawn(tmp_path: Path) -> None:
    (tmp_path / "chain.json").write_text(json.dumps(chain(files=False)))
    page = Page(report(tmp_path).read_text("utf-8"))
    assert not page.faults
    assert "2× smaller, −10.0 points" in page.text
    assert "multiply-adds, million" in page.text
    assert "runtime" not in page.text


def test_the_same_folder_gives_the_same_bytes(folder: Path) -> None:
    assert report(folder).read_bytes() == report(folder).read_bytes()


@pytest.mark.parametrize("broken", ["{", "[]", '{"stages": 3}', '{"stages": [{"facts": {"parameters": "x"}}, 4]}'])
def test_damaged_facts_give_a_page_or_an_error(tmp_path: Path, broken: str) -> None:
    (tmp_path / "chain.json").write_text(broken)
    if broken == "{":
        with pytest.raises(ConfigError, match="cannot be read"):
            report(tmp_path)
    else:
        assert "No result yet" in report(tmp_path).read_text("utf-8")


def test_files_of_the_fewest_bytes_stand_for_the_result() -> None:
    v = {
        "files": [
            {"role": "student", "bytes": 1.0},
            {"role": "control", "bytes": 9.0},
            {"role": "control", "bytes": 4.0},
        ]
    }
    assert compression.smallest(v) == {"role": "control", "bytes": 4.0}
