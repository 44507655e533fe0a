"""Zeros where they belong, kept through training, and said to make nothing faster."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from potstill.compress.sparsity import n_of_m, packed_bytes, sparsify
from potstill.errors import ConfigError
from potstill.models.resolve import load_student, resolve, save_student


def test_two_of_four_along_the_inputs() -> None:
    weight = torch.randn(6, 8, 3, 3)
    mask = n_of_m(weight, 2, 4)
    fours = mask.unflatten(1, (2, 4))
    assert (fours.sum(2) == 2).all()
    kept = weight.abs().unflatten(1, (2, 4))
    assert (kept.masked_fill(~fours, torch.inf).amin(2) >= kept.masked_fill(fours, 0).amax(2)).all()


def test_the_smallest_of_the_whole_net() -> None:
    net = resolve("resnet8", num_classes=10, in_channels=3)
    before = packed_bytes(net.module)
    facts = sparsify(net, 0.7)
    weights = torch.cat([m.weight.flatten() for m in net.module.modules() if isinstance(m, torch.nn.Conv2d)])
    assert float((weights == 0).float().mean()) == pytest.approx(0.7, abs=0.001)
    assert not (net.module.fc.weight == 0).any()
    assert facts["packed_bytes"] < 0.6 * before
    assert any("nothing faster" in notice for notice in facts["notices"])
    assert len(set(facts["layers"].values())) > 3  # not the same share everywhere


def test_layers_that_have_no_fours_stay() -> None:
    facts = sparsify(resolve("resnet8", num_classes=10, in_channels=3), pattern="2:4")
    assert facts["kept"] == {"conv1": "3 inputs are no multiple of 4"}
    assert "Ampere" in facts["notices"][0]


def test_zeros_are_held_after_loading(tmp_path: Path) -> None:
    net = resolve("resnet8", num_classes=10, in_channels=3)
    sparsify(net, 0.5)
    save_student(tmp_path, net)
    module = load_student(tmp_path).module
    zeros = {n: p == 0 for n, p in module.named_parameters() if n.endswith("weight") and p.dim() == 4}
    optimizer = torch.optim.SGD(module.parameters(), 0.1, momentum=0.9)
    for _ in range(2):
        module(torch.rand(4, 3, 16, 16)).square().sum().backward()
        optimizer.step()
    parameters = dict(module.named_parameters())
    assert all((parameters[n][zero] == 0).all() for n, zero in zeros.items())
    assert sum(int(zero.sum()) for zero in zeros.values()) > 30_000


@pytest.mark.parametrize(("ratio", "pattern"), [(None, None), (0.5, "2:4"), (1.2, None), (None, "4:2"), (None, "2-4")])
def test_settings_that_mean_nothing(ratio: float | None, pattern: str | None) -> None:
    with pytest.raises(ConfigError):
        sparsify(resolve("resnet8", num_classes=10, in_channels=3), ratio, pattern)
