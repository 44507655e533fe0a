"""The pages of the methods are what docstrings, presets and measurements say."""

import subprocess
import sys
from pathlib import Path

from potstill.methods import PRESETS, measured

ROOT = Path(__file__).parents[1]


def test_the_pages_are_current() -> None:
    done = subprocess.run([sys.executable, ROOT / "docs" / "generate.py", "--check"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_every_method_has_a_page_with_formula_and_paper() -> None:
    for name in PRESETS:
        text = (ROOT / "docs" / "methods" / f"{name}.md").read_text("utf-8")
        assert "$$" in text, name
        assert "**Paper**" in text, name


def test_costs_are_measured() -> None:
    cost = measured()
    assert cost["kd"]["step"] == 1.0
    assert cost["nst"]["step"] > 1.0
    assert cost["crd"]["parameters"] == 2 * (256 * 128 + 128)
