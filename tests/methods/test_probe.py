import pytest
import torch
from torch import nn

from potstill.errors import ModelError
from potstill.methods.probe import Look, look, pairs, spots
from potstill.models import resolve


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
    def __init__(self, depth: int = 6, dim: int = 8, classes: int = 5) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, dim, 4, 4)
        self.blocks = nn.ModuleList(Block(dim) for _ in range(depth))
        self.head = nn.Linear(dim, classes)

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


class Bottleneck(nn.Module):
    """The resolution is halved by its second convolution."""

    def __init__(self, c: int, d: int, stride: int) -> None:
        super().__init__()
        self.reduce, self.act = nn.Conv2d(c, d // 2, 1), nn.ReLU()
        self.conv = nn.Sequential(nn.Conv2d(d // 2, d // 2, 3, stride, 1), nn.ReLU())
        self.expand = nn.Conv2d(d // 2, d, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.expand(self.conv(self.act(self.reduce(x)))).relu()


class ChannelsLast(nn.Module):
    def __init__(self, c: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(c)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def test_a_stage_ends_in_front_of_the_block_that_halves_the_resolution() -> None:
    stages = [
        nn.Sequential(Bottleneck(c, d, s), Bottleneck(d, d, 1)) for c, d, s in ((3, 8, 1), (8, 12, 2), (12, 20, 2))
    ]
    net = nn.Sequential(*stages, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(20, 5))
    assert look(net, X).stages == ("0", "1", "2")


def test_a_body_that_halves_the_resolution_twice_is_no_block() -> None:
    layers = [
        nn.Conv2d(4, 4, 3, 1, 1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(4, 6, 3, 1, 1),
        nn.ReLU(),
        nn.MaxPool2d(2),
    ]
    stem, body = nn.Conv2d(3, 4, 3, 1, 1), nn.Sequential(*layers)
    net = nn.Sequential(stem, body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 5))
    assert look(net, X).stages == ("1.1", "1.4", "1")


def test_what_has_its_channels_last_is_no_stage() -> None:
    body = [nn.Conv2d(3, 8, 4, 4), ChannelsLast(8), nn.Conv2d(8, 12, 2, 2), ChannelsLast(12)]
    net = nn.Sequential(*body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(12, 5))
    assert look(net, X).stages == ("1", "3")


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


def zoo(name: str) -> Look:
    return look(resolve(f"zoo:{name}", num_classes=5).module, X)


def test_before_the_activation_that_ends_a_stage() -> None:
    assert zoo("resnet8").before["layer2"] == "layer2.0.relu2@in"
    assert zoo("vgg8").before["relu2"] == "relu2@in"
    linear = zoo("mobile_half")
    assert linear.before == {s: s for s in linear.stages}, "a linear bottleneck is signed already"
    assert all(linear.layers[s].signed for s in linear.stages)
    behind_pooling = zoo("doc001_student(size=16)")
    assert behind_pooling.before["block1"] == "block1.block.5@in", (
        "the last of its two ReLUs, in front of the max-pooling"
    )
    assert look(Vgg(inplace=False), X).before["features"] == "features.10@in"
    assert look(Vit(), X).before["blocks.0"] == "blocks.0", "the GELU inside a block ends nothing"


def test_the_batchnorm_before_it() -> None:
    assert zoo("vgg8").norms["relu2@in"] == "block2.1"
    assert zoo("resnet8").norms["layer2.0.relu2@in"] == "layer2.0.bn2", "not the shortcut's, which runs after it"
    assert zoo("mobile_half").norms == {}


def test_where_a_block_opens_with_batchnorm_its_activation_stands_behind_the_stage_before() -> None:
    wrn = zoo("wrn_16_1")
    published = ("block2.layer.0.relu1@in", "block3.layer.0.relu1@in", "relu@in")
    assert wrn.before == dict(zip(("block1", "block2", "block3"), published, strict=True))
    assert wrn.norms == dict(zip(published, ("block2.layer.0.bn1", "block3.layer.0.bn1", "bn1"), strict=True))
    net = resolve("zoo:wrn_16_1", num_classes=5).module
    net.stages = ("block1.layer.0", "block2.layer.0.conv1", "block3.layer.1.relu1")  # type: ignore[assignment]
    inner = look(net, X).before
    assert inner["block1.layer.0"] == "block1.layer.1.relu1@in", "the next block, though it is in the same stage"
    assert inner["block2.layer.0.conv1"] == "block2.layer.0.relu2@in"
    assert inner["block3.layer.1.relu1"] == "block3.layer.1.relu1@in", "what ends in an activation needs no other"


def test_the_map_that_is_averaged() -> None:
    assert [zoo(name).pooled for name in ("resnet8", "wrn_16_1", "vgg8")] == ["layer3", "relu", "relu4"]
    assert look(Vgg(), X).pooled == "features"
    assert look(Vit(6), X).pooled == "blocks.5", "tokens"
    assert zoo("doc001_student(size=16)").pooled is None, "it reads the flattened map"


def test_joined_rules() -> None:
    s, t = zoo("wrn_16_1"), zoo("resnet8")
    stages = [("block1", "layer1"), ("block2", "layer2"), ("block3", "layer3")]
    wide = ["block2.layer.0.relu1@in", "block3.layer.0.relu1@in", "relu@in"]
    narrow = [f"{b}.0.relu2@in" for _, b in stages]
    assert spots("stages@pre", s, t) == list(zip(wide, narrow, strict=True))
    assert spots("stages@pre", t, s) == list(zip(narrow, wide, strict=True))
    before = [(a, p) for (a, _), p in zip(stages, narrow, strict=True)]
    assert spots("stages@t_pre", s, t) == before
    assert spots("stages@t_pre", t, s) == [(b, p) for (_, b), p in zip(stages, wide, strict=True)]
    assert spots("stages@t_pre+penultimate", s, t) == [*before, ("fc@in", "fc@in")]
    assert spots("last@pre", t, s) == ("layer3.0.relu2@in", "relu@in")
    assert spots("stem+stages", s, t) == [("conv1", "relu"), *stages]
    assert spots("pooled", s, t) == ("relu", "layer3")
    assert spots("stages+1", s, t) == "stages+1"
    net = Vgg()
    net.stages = ("features.7", "features.10")  # type: ignore[assignment]
    assert spots("stem+stages", look(net, X), t)[0] == ("features.7@in", "relu"), "the input of its first stage"
    net.stages = ("features",)  # type: ignore[assignment]
    assert spots("stem+stages", look(net, X), t) == [("features", "layer3")], "a picture is no stem"


def test_a_net_that_cannot_read_the_pictures() -> None:
    with pytest.raises(ModelError, match=r"cannot read pictures of shape \(1, 16, 16\)"):
        look(Vgg(), torch.rand(2, 1, 16, 16))


def test_no_linear_layer_no_penultimate_vector() -> None:
    net = nn.Sequential(nn.Conv2d(3, 5, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    seen = look(net, X)
    assert seen.penultimate is None
    with pytest.raises(ModelError, match="no last linear layer"):
        spots("penultimate", seen, seen)
