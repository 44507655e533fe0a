"""Values and gradients of the authors' and reference code, run once (tests/golden/losses.json says which)."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

GOLDEN = Path(__file__).parents[1] / "golden"


@cache
def tensors() -> dict[str, Tensor]:
    return load_file(GOLDEN / "losses.safetensors")


@cache
def cases() -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = json.loads((GOLDEN / "losses.json").read_text())
    return found


@dataclass(frozen=True)
class Golden:
    """One case: the inputs by name, in fresh copies (those with a gradient require it), and what came out.

    ``case["student"]`` is an input, ``case["student_*"]`` the list of ``student_0``, ``student_1``, ...
    """

    name: str
    kwargs: dict[str, Any]
    inputs: dict[str, Tensor]
    loss: Tensor
    grads: dict[str, Tensor]
    outputs: dict[str, Tensor]

    def __getitem__(self, name: str) -> Any:
        if name.endswith("*"):
            return [self.inputs[k] for k in sorted(self.inputs) if k.startswith(name[:-1])]
        return self.inputs[name]

    def check(self, rows: Tensor, rtol: float = 1e-4, skip: Sequence[str] = ()) -> None:
        """Compare the mean of ``rows`` (B,), and the gradients of that mean, with the reference's."""
        assert rows.shape == (len(next(v for k, v in self.inputs.items() if k.startswith("student"))),)
        torch.testing.assert_close(rows.mean(), self.loss, rtol=rtol, atol=1e-7)
        rows.mean().backward()
        for name, expected in self.grads.items():
            if name not in skip:
                got = self.inputs[name].grad
                torch.testing.assert_close(got, expected, rtol=rtol, atol=rtol * float(expected.abs().max()))


@pytest.fixture
def golden() -> Callable[[str], Golden]:
    def load(name: str) -> Golden:
        def part(kind: str) -> dict[str, Tensor]:
            start = f"{name}/{kind}/"
            return {k.removeprefix(start): v.clone() for k, v in tensors().items() if k.startswith(start)}

        inputs, grads = part("in"), part("grad")
        assert set(grads) == set(cases()[name]["grad_of"])
        for k in grads:
            inputs[k].requires_grad_()
        return Golden(name, cases()[name]["kwargs"], inputs, tensors()[f"{name}/loss"], grads, part("out"))

    return load
