import json
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

from potstill.report import report
from tests.report.checker import Page


def adaptive(run: Path) -> Path:
    """The run, as if a policy had decided: two spots, the first falling from 90 % to 40 %."""
    for path in run.glob("student-s*/metrics.jsonl"):
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        for i, row in enumerate(rows):
            row["decisions"] = {"layer1": 0.9 - 0.5 * i / (len(rows) - 1), "logits": 1.0}
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    examples = load_file(run / "examples.safetensors")
    pictures = {k: examples[k][:4] for k in ("images", "ids", "y")}
    save_file({**pictures, "p": np.array([0.1, 0.95, 0.2, 0.9], np.float32)}, run / "decided.safetensors")
    return run


def test_the_curves_and_the_pictures_are_drawn(run: Path, tmp_path: Path) -> None:
    page = Page(report(adaptive(run), tmp_path / "page.html").read_text(encoding="utf-8"))
    assert page.faults == []
    assert "Where it distils" in page.text
    assert "layer1 from 90 % to 40 %" in page.html
    assert "logits from 100 % to 100 %" in page.html
    assert "least 10.0" in page.text
    assert "most 90.0" in page.text


def test_a_run_without_a_policy_has_no_such_section(run: Path, tmp_path: Path) -> None:
    assert "Where it distils" not in report(run, tmp_path / "page.html").read_text(encoding="utf-8")


def test_a_damaged_file_is_said_and_the_rest_is_drawn(run: Path, tmp_path: Path) -> None:
    (adaptive(run) / "decided.safetensors").write_bytes(b"damaged")
    text = report(run, tmp_path / "page.html").read_text(encoding="utf-8")
    assert "decided.safetensors cannot be read" in text
    assert "Where it distils" in text
