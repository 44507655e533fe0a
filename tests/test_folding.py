"""Folding: the same answers at every spot, and nothing folded that somebody reads."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from potstill.folding import fold
from potstill.models import resolve
from potstill.taps import Tapped


class Net(nn.Module):
    """A convolution in a block of its own, one that is read twice, one with a bias, one that is grouped."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, bias=False))
        self.stem_bn = nn.BatchNorm2d(8)
        self.twice, self.twice_bn = nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.deep, self.deep_bn = nn.Conv2d(8, 8, 3, 2, groups=4), nn.BatchNorm2d(8, affine=False)
        self.relu, self.fc = nn.ReLU(inplace=True), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Any:
        x = self.stem_bn(self.stem(x)).relu()
        y = self.twice(x)
        x = self.relu(self.deep_bn(self.deep(self.twice_bn(y) + y)))
        return self.fc(x.mean((2, 3)))


def warm(net: nn.Module) -> nn.Module:
    """With statistics that are not those of a new net."""
    g = torch.Generator().manual_seed(1)
    for m in net.modules():
        if isinstance(m, nn.BatchNorm2d):
            m.running_mean.copy_(torch.randn(m.num_features, generator=g) * 0.2)  # type: ignore[union-attr]
            m.running_var.copy_(torch.rand(m.num_features, generator=g) + 0.5)  # type: ignore[union-attr]
            if m.affine:
                m.weight.data.copy_(torch.randn(m.num_features, generator=g))
                m.bias.data.copy_(torch.randn(m.num_features, generator=g))
    return net.eval()


def norms(net: nn.Module) -> list[str]:
    return [name for name, m in net.named_modules() if isinstance(m, nn.BatchNorm2d)]


def check(net: nn.Module, spots: list[str], x: Tensor) -> list[str]:
    """Fold a copy; it must say the same at all spots. The norms that are left."""
    truth = Tapped(net, spots)(x)
    made = Tapped(copy.deepcopy(net), spots)
    why = fold(made)
    said = made(x)
    for spot in truth:
        assert (said[spot] - truth[spot]).norm() <= 1e-5 * truth[spot].norm(), spot
    left = norms(made.net)
    assert (why is None) == (left != norms(net))
    return left


X = torch.rand(4, 3, 12, 12, generator=torch.Generator().manual_seed(0))


@torch.no_grad()
@pytest.mark.parametrize(
    ("spots", "left"),
    [
        ([], ["twice_bn"]),
        (["stem_bn", "deep", "fc@in"], ["twice_bn", "deep_bn"]),
        (["stem"], ["stem_bn", "twice_bn"]),
        (["stem.0"], ["stem_bn", "twice_bn"]),
        (["stem.-1@in"], ["twice_bn"]),
        (["stem_bn@in"], ["stem_bn", "twice_bn"]),
        (["deep@in", "deep_bn@in"], ["twice_bn", "deep_bn"]),
    ],
)
def test_all_norms_but_those_whose_input_is_read(spots: list[str], left: list[str]) -> None:
    torch.manual_seed(0)
    assert check(warm(Net()), spots, X) == left


@torch.no_grad()
@pytest.mark.parametrize(
    ("name", "share"), [("resnet8x4", 0), ("wrn_16_1", 0.6), ("mobilenetv2", 0), ("shufflenetv1", 0), ("vgg8", 1)]
)
def test_nets_of_the_zoo(name: str, share: float) -> None:
    """All are folded but the norms before a convolution (WRN) and what asks for its picture's size (VGG)."""
    torch.manual_seed(0)
    net = resolve(f"zoo:{name}", num_classes=10, in_channels=3).module
    left = check(warm(net), [*net.stages, f"{net.head}@in"], torch.rand(2, 3, 32, 32))  # type: ignore[misc]
    assert len(left) <= share * len(norms(net))


class Answer:
    def __init__(self, logits: Tensor) -> None:
        self.logits = logits


class Wrapped(Net):
    def __init__(self, wrap: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.wrap = wrap

    def forward(self, x: Tensor) -> Any:
        return self.wrap(super().forward(x))


@torch.no_grad()
@pytest.mark.parametrize("wrap", [Answer, lambda z: {"logits": z}, lambda z: (z, None), lambda z: [z]])
def test_answers_in_any_form(wrap: Callable[[Tensor], Any]) -> None:
    torch.manual_seed(0)
    assert check(warm(Wrapped(wrap)), ["relu@in", "fc@in"], X) == ["twice_bn"]


class Branches(Net):
    def forward(self, x: Tensor) -> Any:
        return super().forward(x if x.sum() > 0 else -x)


class Shared(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn, self.fc = nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3), nn.Linear(3, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.bn(self.conv(x)).relu()
        return self.fc(self.bn(self.conv(x)).mean((2, 3)))


class Tied(nn.Module):
    """The convolution's weights are read by another part of the net."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn, self.fc = nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3), nn.Linear(3, 5)

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn(self.conv(x)).relu()
        return self.fc(nn.functional.conv2d(y, self.conv.weight).mean((2, 3)))


class Standard(nn.Conv2d):
    """A convolution whose weights are brought to mean 0 in each pass."""

    def forward(self, x: Tensor) -> Tensor:
        return self._conv_forward(x, self.weight - self.weight.mean((1, 2, 3), keepdim=True), self.bias)


@torch.no_grad()
def test_what_cannot_be_folded_stays_and_says_why() -> None:
    torch.manual_seed(0)
    branches = Tapped(warm(Branches()))
    assert "cannot trace Branches" in str(fold(branches))
    assert len(norms(branches.net)) == 3
    assert check(warm(Shared()), [], X) == ["bn"]
    assert check(warm(Tied()), [], X) == ["bn"]
    assert check(warm(nn.Sequential(Standard(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten())), [], X) == ["1"]
    hooked = nn.Sequential(nn.utils.weight_norm(nn.Conv2d(3, 4, 3)), nn.BatchNorm2d(4), nn.Flatten())
    made = Tapped(warm(hooked))
    assert fold(made)
    batch_stats = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, track_running_stats=False), nn.Flatten()).eval()
    assert check(batch_stats, [], X) == ["1"]
