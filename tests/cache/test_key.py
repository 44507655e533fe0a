"""Keys: whatever changes the teacher's answers changes the key, and nothing else does."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from potstill.cache import Layout, fingerprint, key
from potstill.data import Views
from potstill.models.preprocess import Preprocess
from potstill.taps import Tapped


class Net(nn.Module):
    def __init__(self, scale: float = 1.0) -> None:
        super().__init__()
        self.conv, self.bn, self.act = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU()
        self.fc, self.scale = nn.Linear(4, 5), scale
        self.register_buffer("mask", torch.ones(4), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.act(self.bn(self.conv(x))).mean((2, 3)) * self.mask) * self.scale


class Other(Net):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return -super().forward(x)


def net() -> Net:
    torch.manual_seed(0)
    return Net()


LAYOUT = Layout.of({"logits": torch.zeros(2, 5)})
GIVEN: dict[str, Any] = {"data": "d", "views": Views(pad=1), "cycle": 2, "precision": "32"}


def of(
    teacher: nn.Module | None = None, layout: Layout = LAYOUT, prepare: Any = None, order: Any = None, **changed: Any
) -> str:
    return key(Tapped(teacher or net(), (), prepare, order), layout, **{**GIVEN, **changed})[0]


def test_the_same_teacher_has_the_same_key_whatever_its_mode_and_memory_format() -> None:
    plain = of()
    assert len(plain) == 20
    assert of(net().eval()) == of(copy.deepcopy(net())) == plain
    assert of(net().to(memory_format=torch.channels_last)) == plain


def _weight(n: Net) -> None:
    n.conv.weight.data[3, 2, 2, 2] += 1e-6


def _statistics(n: Net) -> None:
    n.bn.running_mean[0] += 1e-6  # type: ignore[index]


def _hidden_buffer(n: Net) -> None:
    n.mask[1] = 0


def _setting(n: Net) -> None:
    n.bn.eps = 1e-3


def _own_setting(n: Net) -> None:
    n.scale = 2.0


def _structure(n: Net) -> None:
    n.act = nn.SiLU()  # type: ignore[assignment]


@pytest.mark.parametrize("change", [_weight, _statistics, _hidden_buffer, _setting, _own_setting, _structure])
def test_another_teacher_has_another_key(change: Callable[[Net], None]) -> None:
    changed = net()
    change(changed)
    assert of(changed) != of()


def test_other_code_with_the_same_weights_has_another_key() -> None:
    other = Other()
    other.load_state_dict(net().state_dict())
    assert of(other) != of()
    spaces: list[dict[str, Any]] = [{}, {}]
    for factor, space in zip((2, 3), spaces, strict=True):  # no source to read: the bytecode tells
        exec(
            f"import torch\nclass Made(torch.nn.Module):\n    def forward(self, x):\n        return x * {factor}", space
        )
    assert fingerprint(spaces[0]["Made"]()) != fingerprint(spaces[1]["Made"]())


def test_all_else_that_counts_is_in_the_key() -> None:
    keys = [
        of(),
        of(data="e"),
        of(views=Views(pad=2)),
        of(views=Views(pad=1, seed=1)),
        of(views=None),
        of(cycle=3),
        of(precision="bf16"),
        of(prepare=Preprocess([0.5] * 3, [0.2] * 3)),
        of(prepare=Preprocess([0.5] * 3, [0.2001] * 3)),
        of(order=torch.tensor([0, 1, 2, 3, 4])),
        of(order=torch.tensor([1, 0, 2, 3, 4])),
        of(layout=Layout.of({"logits": torch.zeros(2, 5)}, "int8")),
        of(layout=Layout.of({"logits": torch.zeros(2, 5), "bn": torch.zeros(2, 4, 6, 6)})),
    ]
    assert len({*keys}) == len(keys)


@pytest.mark.parametrize(
    "written",
    [
        "@torch.no_grad()\n    def forward(self, x):\n        return x * {}",
        "@staticmethod\n    def scaled(x):\n        return x * {}",
        "@property\n    def scale(self):\n        return 1.0 + {}",
        "def forward(self, x):\n        return [f * {} for f in x]",
    ],
    ids=["decorated", "static", "property", "comprehension"],
)
def test_bytecode_is_read_through_what_decorates_it_and_what_it_holds(written: str) -> None:
    keys = set()
    for factor in (2.0, 3.0):
        space: dict[str, Any] = {}
        exec(f"import torch\nclass Made(torch.nn.Module):\n    {written.format(factor)}", space)
        keys.add(fingerprint(space["Made"]()))
    assert len(keys) == 2
