"""Packages that potstill does not require."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from potstill.errors import MachineError
from potstill.extras import optional


@pytest.mark.parametrize("name", ["no_such_package", "no_such_package.part"])
def test_a_package_that_is_missing_is_named_with_its_extra_and_who_needs_it(name: str) -> None:
    with pytest.raises(MachineError, match="a sweep needs no_such_package, which is not installed") as e:
        optional(name, "sweep", what="a sweep")
    assert e.value.hint == 'pip install "potstill[sweep]"'


def test_a_part_of_a_package_comes_with_it() -> None:
    assert optional("json.decoder", "x", "JSONDecoder") is sys.modules["json.decoder"]


@pytest.mark.parametrize(
    ("code", "says"),
    [
        ("raise RuntimeError('operator torchvision::nms does not exist')", "RuntimeError: operator torchvision::nms"),
        ("import no_such_dependency", "No module named 'no_such_dependency'"),
        ("raise OSError('libcudart.so.12: cannot open shared object file\\nmore')", "libcudart.so.12"),
        ("__all__ = []", "AttributeError"),
    ],
)
def test_broken_package(code: str, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "brittle.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(MachineError, match="is installed but cannot be imported") as e:
        optional("brittle", "brittle", "models")
    assert says in str(e.value)
    assert f"torch {torch.__version__}" in str(e.value)
    assert len(str(e.value).splitlines()) <= 6
