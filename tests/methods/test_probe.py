import pytest
import torch
from torch import nn

from potstill.errors import ModelError
from potstill.methods.probe import look, pairs, spots


class Vgg(nn.Module):
    """A user's net: no word on where its stages end; in-place ReLUs, as in torchvision."""

    def __init__(self, widths: tuple[int, ...] = (4, 6, 8), inplace: bool = True) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for c, d in zip((3, *widths), widths, strict=False):
            layers += [nn.Conv2d(c, d, 3, padding=1), nn.BatchNorm2d(d), nn.ReLU(inplace), nn.MaxPool2d(2)]
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Linear(widths[-1], 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.classifier(self.features(x).mean((2, 3)))


class Block(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, 2 * dim), nn.GELU(), nn.Linear(2 * dim, dim))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.mlp(x)


class Vit(nn.Module):
    def __init__(self, depth: int = 6, dim: int = 8) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, dim, 4, 4)
        self.blocks = nn.ModuleList(Block(dim) for _ in range(depth))
        self.head = nn.Linear(dim, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.patch(x).flatten(2).transpose(1, 2)
        for block in self.blocks:
            x = block(x)
        return self.head(x.mean(1))


X = torch.rand(2, 3, 16, 16)


def test_stages_of_a_plain_convolutional_net() -> None:
    seen = look(Vgg(), X)
    assert seen.penultimate == "classifier@in"
    assert seen.head == "classifier"
    assert seen.stages == ("features.2", "features.6", "features.10", "features")
    assert [seen.layers[s].shape for s in seen.stages] == [(4, 16, 16), (6, 8, 8), (8, 4, 4), (8, 2, 2)]
    assert not seen.layers["features.1"].tappable, "its output is overwritten by the ReLU"
    assert look(Vgg(inplace=False), X).layers["features.1"].tappable


def test_stages_of_a_transformer() -> None:
    assert look(Vit(6), X).stages == ("blocks.0", "blocks.2", "blocks.3", "blocks.5")
    assert look(Vit(2), X).stages == ("blocks.0", "blocks.1")


def test_a_net_that_says_its_stages_is_believed() -> None:
    net = Vgg()
    net.stages = ("features.6",)  # type: ignore[assignment]
    assert look(net, X).stages == ("features.6",)


def test_the_net_is_left_as_it_was() -> None:
    net = Vgg().train()
    net.features[1].eval()
    before = {k: v.clone() for k, v in net.state_dict().items()}
    look(net, X)
    assert net.training
    assert not net.features[1].training
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
    assert not any(m._forward_hooks for m in net.modules())


def test_partners() -> None:
    three, four = look(Vgg((4, 8)), X), look(Vgg((4, 6, 8)), X)
    assert pairs(three, four) == [
        ("features.2", "features.2"),
        ("features.6", "features.6"),
        ("features", "features.10"),
    ]
    assert pairs(four, three) == [
        ("features.2", "features.2"),
        ("features.6", "features.6"),
        ("features.10", "features"),
    ]
    other = look(Vgg((4, 8)), torch.rand(2, 3, 64, 64))  # no resolution in common
    assert pairs(other, four) == [("features.2", "features.6"), ("features.6", "features.10"), ("features", "features")]


def test_rules() -> None:
    s, t = look(Vgg(), X), look(Vgg((8, 12, 16)), X)
    assert spots("logits", s, t) == "logits"
    assert spots("penultimate", s, t) == ("classifier@in", "classifier@in")
    assert spots("last", s, t) == ("features", "features")
    assert spots("stage:2", s, t) == ("features.6", "features.6")
    assert spots("stages", s, t)[0] == ("features.2", "features.2")
    assert spots(["a", "b"], s, t) == ("a", "b")
    assert spots([["a", "b"], "c"], s, t) == [("a", "b"), "c"]
    assert spots("features.2", s, t) == "features.2"


def test_a_net_that_cannot_read_the_pictures() -> None:
    with pytest.raises(ModelError, match=r"cannot read pictures of shape \(1, 16, 16\)"):
        look(Vgg(), torch.rand(2, 1, 16, 16))


def test_no_linear_layer_no_penultimate_vector() -> None:
    net = nn.Sequential(nn.Conv2d(3, 5, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    seen = look(net, X)
    assert seen.penultimate is None
    with pytest.raises(ModelError, match="no last linear layer"):
        spots("penultimate", seen, seen)
