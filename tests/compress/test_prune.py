"""Pruning reaches its target, really shrinks the net, and the net is saved and loaded without the library."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("torch_pruning")

import potstill
from potstill import cost
from potstill.compress.groups import Channels
from potstill.compress.prune import Prune, plan, prune
from potstill.errors import ConfigError, MachineError, ModelError
from potstill.models.net import Net
from potstill.models.resolve import load_student, resolve, save_student
from tests.compress.nets import Normalised, Skips

SHAPE = (3, 16, 16)
X = torch.rand(2, *SHAPE)


def zoo(name: str) -> Net:
    net = resolve(name, num_classes=10, in_channels=3)
    net.size = (16, 16)
    return net


@pytest.mark.parametrize(
    ("name", "target"), [("resnet8", None), ("resnet8", {"macs": 0.5}), ("vgg8", {"macs": 0.5}), ("mobile_half", None)]
)
def test_a_pruned_net_is_smaller_and_loads_bit_for_bit(name: str, target: Any, tmp_path: Path) -> None:
    net = zoo(name)
    before = cost.macs(net.module, SHAPE)
    facts = prune(net, SHAPE, None if target else 0.3, target=target)
    after = cost.macs(net.module, SHAPE)
    assert facts["after"]["macs"] == after < before
    if target:
        assert 0.35 < after / before <= 0.5
    net.module.eval()
    logits = net.module(X)
    assert logits.shape == (2, 10)
    save_student(tmp_path, net)
    assert torch.equal(load_student(tmp_path).module.eval()(X), logits)


def test_targets_are_met_closely_where_channels_are_free() -> None:
    for measure, value in (("macs", 0.6), ("parameters", 40_000), ("bytes", 0.7)):
        net = zoo("resnet8")
        facts = prune(net, SHAPE, target={measure: value}, round_to=1)
        goal = value if value > 1 else value * facts["before"][measure]
        assert 0.97 * goal < facts["after"][measure] <= goal


def test_a_latency_is_searched(monkeypatch: pytest.MonkeyPatch) -> None:
    """By what is measured: here a clock that is exact, a millisecond for a million multiply-adds."""
    from potstill.compress import prune as module

    monkeypatch.setitem(module.MEASURES, "latency", lambda m, shape: cost.macs(m, shape) / 1e6)
    net = zoo("resnet8")
    prune(net, SHAPE, target={"latency": 2.0}, round_to=4)
    assert 1.7e6 < cost.macs(net.module, SHAPE) <= 2e6


def test_a_target_out_of_reach_says_what_can_be_had() -> None:
    with pytest.raises(ConfigError, match=r"brings it to [\d.e+,]+ at least"):
        prune(zoo("resnet8"), SHAPE, target={"parameters": 10})


def test_users_net_as_an_object(tmp_path: Path) -> None:
    net = Net(Skips(), "object:Skips")
    prune(net, SHAPE, 0.4, round_to=4)
    logits = net.module.eval()(X)
    save_student(tmp_path, net)
    with pytest.raises(ModelError, match="only its owner"):
        load_student(tmp_path)
    assert torch.equal(load_student(tmp_path, module=Skips()).module.eval()(X), logits)


def test_pruning_twice_adds_up(tmp_path: Path) -> None:
    net = zoo("resnet8")
    prune(net, SHAPE, 0.25, ranking="layer", round_to=4)
    once = cost.parameters(net.module)
    prune(net, SHAPE, 0.25, ranking="layer", round_to=4)
    assert cost.parameters(net.module) < once
    save_student(tmp_path, net)
    assert torch.equal(load_student(tmp_path).module.eval()(X), net.module.eval()(X))


def test_loading_needs_no_pruning_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    net = zoo("resnet8")
    prune(net, SHAPE, 0.5)
    save_student(tmp_path, net)
    monkeypatch.setitem(sys.modules, "torch_pruning", None)
    assert potstill.load(tmp_path).conv1.out_channels == 8
    assert {p.name for p in tmp_path.iterdir()} == {"student.json", "student.safetensors"}
    assert json.loads((tmp_path / "student.json").read_text())["format"] == 2
    with pytest.raises(MachineError, match=r'pip install "potstill\[edge\]"'):
        prune(net, SHAPE, 0.5)


def test_what_cannot_be_pruned_says_which_module() -> None:
    with pytest.raises(ModelError, match=r"first: its channels go through norm, a LayerNorm"):
        prune(Net(Normalised(), "object:x"), (3, 8, 8), 0.5)


GROUPS = [Channels("a", 32, 1, ("a", "b")), Channels("c", 24, 4, ("c",))]
SCORES = {"a": torch.arange(32.0), "c": torch.arange(6.0) / 10}


def test_the_least_important_go_and_the_limits_hold() -> None:
    chosen = plan(GROUPS, SCORES, 0.5, round_to=1)
    assert chosen["c"] == sorted(u + 6 * k for k in range(4) for u in range(4))  # three quarters, the limit, of six
    assert chosen["a"] == list(range(15))
    assert "a" not in plan(GROUPS, SCORES, 0.5, round_to=1, limits={"b": 0})
    assert len(plan(GROUPS, SCORES, 0.9, round_to=1, limits={"a": 0.5, "b": 0.25})["a"]) == 8


@pytest.mark.parametrize("ratio", [0.1, 0.3, 0.5, 0.7, 0.95])
def test_what_stays_is_a_multiple(ratio: float) -> None:
    chosen = plan(GROUPS, SCORES, ratio, round_to=8, ranking="layer")
    left = {g.root: g.count - len(chosen.get(g.root, ())) for g in GROUPS}
    assert all(n % 8 == 0 and n >= 0.25 * g.count for n, g in zip(left.values(), GROUPS, strict=True))


def test_a_larger_share_takes_the_same_and_more() -> None:
    before: set[tuple[str, int]] = set()
    for ratio in torch.linspace(0, 1, 40).tolist():
        now = {(root, c) for root, taken in plan(GROUPS, SCORES, ratio, round_to=4).items() for c in taken}
        assert before <= now
        before = now


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"ratio": 0.5, "macs": 0.5},
        {"ratio": 1.5},
        {"ratio": 0.5, "importance": "l7"},
        {"ratio": 0.5, "round_to": 0},
        {"ratio": 0.5, "limits": {"a": 1.0}},
        {"macs": -3},
    ],
)
def test_settings_that_mean_nothing(settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        Prune(**settings)


def test_a_pattern_without_a_layer() -> None:
    with pytest.raises(ConfigError, match="no prunable layer is called 'layer9"):
        prune(zoo("resnet8"), SHAPE, 0.5, limits={"layer9.*": 0.1})
