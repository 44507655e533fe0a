"""Only channels that are proven to go together are offered."""

from __future__ import annotations

import pytest
import torch
from torch import nn

pytest.importorskip("torch_pruning")

from potstill.compress.groups import channels, cut, failing, scores
from potstill.models.resolve import resolve
from tests.compress.nets import FixedShape, Normalised, Shuffled, Skips

X = torch.rand(1, 3, 16, 16)


def roots(module: nn.Module, x: torch.Tensor = X) -> tuple[set[str], dict[str, str]]:
    groups, kept = channels(module, x)
    return {g.root for g in groups}, kept


def test_a_sum_and_a_concatenation() -> None:
    groups, kept = channels(Skips(), X)
    assert {frozenset(g.layers) for g in groups} == {frozenset(s) for s in ({"a", "b"}, {"c"}, {"up"}, {"hidden"})}
    assert kept == {"head": "its channels are the outputs of the net"}


def test_a_silent_shuffle_is_found() -> None:
    """The library would cut ``first``, and the net would go on, wrongly."""
    found, kept = roots(Shuffled())
    assert found == {"second"}
    assert "shuffled" in kept["first"]


def test_a_fixed_shape_is_named() -> None:
    found, kept = roots(FixedShape())
    assert found == {"first"}
    assert "FixedShape" in kept["last"]
    assert "shape" in kept["last"]


def test_a_normalisation_over_channels_is_left() -> None:
    found, kept = roots(Normalised(), torch.rand(1, 3, 8, 8))
    assert not found
    assert "LayerNorm" in kept["first"]


def test_a_branch_that_begins_closed_is_proven_open() -> None:
    """With a scale of zero after it, any cut of the branch would pass."""

    class Closed(Shuffled):
        def __init__(self) -> None:
            super().__init__()
            self.gate = nn.BatchNorm2d(16)
            nn.init.zeros_(self.gate.weight)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = torch.relu(self.first(x)).flip(1)
            return self.head(self.gate(self.second(y)).mean((2, 3)))

    assert roots(Closed())[0] == {"second"}


@pytest.mark.parametrize("name", ["resnet8", "mobile_half", "wrn_16_1"])
def test_all_layers_of_the_zoo_but_the_classifier(name: str) -> None:
    module = resolve(name, num_classes=10, in_channels=3).module
    groups, kept = channels(module, X)
    assert list(kept.values()) == ["its channels are the outputs of the net"]
    convs = {p for p, m in module.named_modules() if isinstance(m, nn.Conv2d)}
    assert {layer for g in groups for layer in g.layers} == convs


def test_grouped_convolutions_lose_as_much_in_each_group() -> None:
    net = nn.Sequential(
        nn.Conv2d(3, 8, 1), nn.Conv2d(8, 16, 3, groups=4), nn.Conv2d(16, 8, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    ).append(nn.Linear(8, 4))
    groups, _ = channels(net, X)
    grouped = next(g for g in groups if g.parts == 4)
    assert grouped.of([1]) == [1 + grouped.units * k for k in range(4)]
    cut(net, X, {grouped.root: grouped.of([1])})
    assert net[1].in_channels + net[1].out_channels in (20, 12)
    assert failing(net, X) is None


def test_what_cannot_be_traced_names_a_module() -> None:
    from potstill.errors import ModelError

    module = resolve("ShuffleV2", num_classes=10, in_channels=3).module
    with pytest.raises(ModelError, match=r"cannot be followed through layer1"):
        channels(module, X)


def test_importances_differ_and_taylor_looks_at_the_loss() -> None:
    module = Skips()
    groups, _ = channels(module, X)
    seen = {}
    for importance in ("magnitude", "bn", "taylor"):
        seen[importance] = scores(module, X, groups, importance, lambda m: m(X).square().sum().backward())
    assert all(seen[k].keys() == {g.root for g in groups} for k in seen)
    root = next(g.root for g in groups if "a" in g.layers)
    assert not torch.allclose(seen["taylor"][root], seen["magnitude"][root])
    assert torch.allclose(seen["bn"][root], torch.ones(16))  # all scales are 1 in a fresh net
    assert all(p.grad is None for p in module.parameters())  # the net itself is left as it was
