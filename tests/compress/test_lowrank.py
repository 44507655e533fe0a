"""Factorised layers: the best of their rank, exact at full rank, saved as ranks."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from potstill import cost
from potstill.compress.lowrank import _fill, lowrank
from potstill.errors import ConfigError, ModelError
from potstill.models.net import Net
from potstill.models.resolve import load_student, resolve, save_student
from potstill.models.surgery import factorised

SHAPE = (3, 16, 16)


@pytest.mark.parametrize(
    ("layer", "ranks"), [(nn.Linear(12, 8), [8]), (nn.Conv2d(6, 8, 3), [8]), (nn.Conv2d(6, 8, 3, padding=1), [6, 8])]
)
def test_at_full_rank_nothing_changes(layer: nn.Module, ranks: list[int]) -> None:
    chain = factorised(layer, ranks, "layer")
    weight = layer.weight.detach().double()
    assert _fill(chain, layer, weight.flatten(2) if weight.dim() > 2 else weight, ranks) < 1e-12
    x = torch.rand(2, 12) if isinstance(layer, nn.Linear) else torch.rand(2, 6, 8, 8)
    torch.testing.assert_close(chain(x), layer(x))


def test_tucker_finds_a_kernel_that_has_the_rank() -> None:
    layer = nn.Conv2d(12, 16, 3)
    with torch.no_grad():
        core, left, right = torch.randn(4, 3, 9), torch.randn(16, 4), torch.randn(12, 3)
        layer.weight.copy_(torch.einsum("abk,oa,ib->oik", core, left, right).view_as(layer.weight))
    weight = layer.weight.detach().double().flatten(2)
    assert _fill(factorised(layer, [3, 4], ""), layer, weight, [3, 4]) < 1e-5
    assert _fill(factorised(layer, [2, 4], ""), layer, weight, [2, 4]) > 0.05


def test_svd_is_the_best_of_its_rank() -> None:
    """Eckart and Young: the error is that of the singular values left out."""
    layer = nn.Linear(20, 10)
    s = torch.linalg.svdvals(layer.weight.detach().double())
    error = _fill(factorised(layer, [4], ""), layer, layer.weight.detach().double(), [4])
    assert error == pytest.approx(float((s[4:].square().sum() / s.square().sum()).sqrt()), rel=1e-6)


@pytest.mark.parametrize("form", ["tucker", "svd"])
def test_a_net_gets_smaller_and_comes_back(form: str, tmp_path: Path) -> None:
    net = resolve("resnet8", num_classes=10, in_channels=3)
    facts = lowrank(net, SHAPE, 0.5, form=form)  # type: ignore[arg-type]
    assert facts["after"]["macs"] == cost.macs(net.module, SHAPE) < 0.8 * facts["before"]["macs"]
    assert "fc" not in facts["ranks"]
    save_student(tmp_path, net)
    x = torch.rand(2, *SHAPE)
    assert torch.equal(load_student(tmp_path).module.eval()(x), net.module.eval()(x))


def test_energy_gives_each_layer_its_rank() -> None:
    net = resolve("resnet8", num_classes=10, in_channels=3)
    little, much = (lowrank(Net(resolve("resnet8").module, "zoo:resnet8"), SHAPE, energy=e) for e in (0.3, 0.6))
    assert sum(map(sum, little["ranks"].values())) < sum(map(sum, much["ranks"].values()))
    with pytest.raises(ModelError, match="no layer"):
        lowrank(net, SHAPE, energy=0.999)
    with pytest.raises(ConfigError):
        lowrank(net, SHAPE, 0.5, energy=0.5)


def test_a_linear_in_the_middle() -> None:
    net = Net(nn.Sequential(nn.Flatten(), nn.Linear(768, 64), nn.ReLU(), nn.Linear(64, 10)), "object:x")
    assert lowrank(net, SHAPE, 0.25)["ranks"] == {"1": [16]}
    assert isinstance(net.module[3], nn.Linear)


def test_pruned_then_factorised_then_pruned(tmp_path: Path) -> None:
    pytest.importorskip("torch_pruning")
    from potstill.compress.prune import prune

    net = resolve("resnet8", num_classes=10, in_channels=3)
    prune(net, SHAPE, 0.25, ranking="layer", round_to=4)
    lowrank(net, SHAPE, 0.5, round_to=4)
    prune(net, SHAPE, 0.25, ranking="layer", round_to=4)
    save_student(tmp_path, net)
    x = torch.rand(2, *SHAPE)
    assert torch.equal(load_student(tmp_path).module.eval()(x), net.module.eval()(x))


def test_a_net_that_reads_its_weights_itself_is_refused() -> None:
    class Reads(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.head = nn.Conv2d(3, 32, 3), nn.Linear(32, 10)
            self.mid = nn.Conv2d(32, 32, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.mid(self.conv(x)) * self.mid.weight.norm()
            return self.head(y.mean((2, 3)))

    with pytest.raises(ModelError, match=r"Reads.*weight"):
        lowrank(Net(Reads(), "object:Reads"), SHAPE, 0.25)
    lowrank(
        Net(nn.Sequential(nn.Conv2d(3, 32, 3), nn.Conv2d(32, 32, 3), nn.Flatten(), nn.Linear(32 * 144, 10)), "o"),
        SHAPE,
        0.25,
    )
