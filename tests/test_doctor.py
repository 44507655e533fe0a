from __future__ import annotations

import json
import subprocess
import sys

import pytest

from potstill import doctor
from potstill.cli import run


def test_the_block_says_versions_and_is_json_too(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path
) -> None:
    import torch

    monkeypatch.setenv("POTSTILL_CACHE", str(tmp_path / "cache"))
    assert run(["doctor", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["torch"]["version"] == torch.__version__
    assert facts["cache"] == {
        "path": str(tmp_path / "cache"),
        "bytes": 0,
        "writable": True,
        "text": f"{tmp_path / 'cache'}, 0.0 MB",
    }
    text = doctor.text(facts)
    assert f"torch        {torch.__version__}" in text
    assert not (tmp_path / "cache").exists()


def test_a_broken_torchvision_is_said_with_the_one_that_fits(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    (tmp_path / "torchvision.py").write_text("raise RuntimeError('operator torchvision::nms does not exist')")
    (tmp_path / "torchvision-0.99.dist-info").mkdir()
    (tmp_path / "torchvision-0.99.dist-info" / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: torchvision\nVersion: 0.99\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    vision = doctor._torchvision()
    assert (vision["version"], vision["works"]) == ("0.99", False)
    assert "operator torchvision::nms does not exist" in vision["text"]
    facts = {
        "torch": {"version": "2.13.0+cpu"},
        "torchvision": vision,
        "packages": {"numpy": None},
        "cache": {"writable": False, "path": "x"},
    }
    problems = doctor._problems(facts, "")
    assert 'pip install "torchvision==0.28.*"' in problems[0]
    assert problems[1:3] == [
        "numpy is missing: pip install numpy",
        "the cache x cannot be written: set POTSTILL_CACHE to a folder of yours",
    ]
    assert "torch cannot be imported: why" in doctor._problems({**facts, "torch": None}, "why")[0]


def test_a_probe_says_why_it_failed() -> None:
    assert doctor.probe("print('noise'); print('last')") == ("last", "")
    assert doctor.probe("import sys; sys.exit('gone wrong')") == (None, "gone wrong")
    assert doctor.probe("import os; os._exit(3)") == (None, "ended with 3")


def test_looking_does_not_import_torch() -> None:
    code = "import sys\nfrom potstill.doctor import probe\nprobe('1')\nassert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
