"""Segments composed are the net, bit for bit; a cut that something goes round is refused by name."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from potstill.errors import ModelError
from potstill.models import resolve
from potstill.segments import Segments, Trace
from tests.methods.test_probe import Vgg, Vit
from tests.segments.nets import Across, Inside, Peek, Twice

X = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
ZOO = ("resnet8", "resnet8x4", "vgg8", "wrn_16_1", "mobile_half", "ShuffleV1", "ShuffleV2", "cnn", "doc001_student")
OWN: dict[str, tuple[Callable[[], nn.Module], list[str]]] = {
    "skips inside": (Inside, ["first", "second", "head@in"]),
    "a shared ReLU that works in place": (Inside, ["relu@in#1", "relu@in#2", "second"]),
    "calls by number": (Twice, ["patch", "block#1", "block@in#2", "norm@in", "head@in"]),
    "in-place ReLUs": (Vgg, ["features.2", "features.6", "features", "classifier@in"]),
    "tokens": (lambda: Vit(3, 8), ["blocks.0", "blocks.2", "head@in"]),
    "one spot twice": (lambda: Vit(3, 8), ["blocks.0", "blocks.0", "blocks.1@in", "head@in"]),
}


def logits(said: Tensor | dict[str, Tensor]) -> Tensor:
    return said["logits"] if isinstance(said, dict) else said


def composed(segments: Segments, x: Tensor) -> Tensor:
    for segment in segments:
        x = segment(x)
    return x


def zoo(name: str) -> nn.Module:
    torch.manual_seed(0)
    return resolve(f"zoo:{name}", num_classes=5).module


@pytest.mark.parametrize("name", ZOO)
def test_the_zoo_in_pieces_is_the_zoo(name: str) -> None:
    net = zoo(name)
    segments = Segments(net, [net.stem, *net.stages, f"{net.head}@in"], X)
    assert net.training, "left as it was"
    net.eval()
    for x in (X, X[:1]):  # another batch than it was tried with
        assert torch.equal(composed(segments, x), net(x))
    assert not any("forward" in m.__dict__ for m in net.modules())


@pytest.mark.parametrize("name", OWN)
def test_a_users_net_in_pieces_is_the_net(name: str) -> None:
    make, spots = OWN[name]
    torch.manual_seed(0)
    net = make().eval()
    before = logits(net(X))
    segments = Segments(net, spots, X)
    assert torch.equal(composed(segments, X), before)
    assert len(segments) == len(spots) + 1
    for x in (X.flip(0), X[:1]):
        assert torch.equal(composed(segments, x), logits(net(x)))


def test_a_segment_does_not_run_what_lies_outside() -> None:
    net = zoo("resnet8").eval()
    segments, ran = Segments(net, ["layer1", "layer2", "fc@in"], X), list[str]()
    for path, module in net.named_modules():
        module.register_forward_hook(lambda m, a, o, path=path: ran.append(path))
    u = segments[0](X)
    assert ran[:3] == ["conv1", "bn1", "relu"]
    assert not any(path.startswith("layer2") for path in ran)
    ran.clear()
    segments[1](u)
    own = [p for p in ran if "." in p]
    assert own, "the blocks of the segment"
    assert all(p.startswith("layer2.") for p in own), own


def test_gradients_of_segments_are_the_nets() -> None:
    net = zoo("mobile_half").eval()
    segments = Segments(net, [*net.stages, "classifier.0@in"], X)
    slopes = []
    for f in (net, lambda x: composed(segments, x)):
        net.zero_grad()
        f(X).square().sum().backward()
        slopes.append([p.grad.clone() for p in net.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*slopes, strict=True))


def test_the_given_value_is_not_overwritten() -> None:
    net = Inside().eval()
    u = torch.randn(3, 8, 8, 8)
    kept = u.clone()
    Segments(net, ["relu@in#2"], X)[1](u)
    assert torch.equal(u, kept)
    with pytest.raises(ModelError, match=r"(?s)cut at 'features.1'.*overwrites this value in place"):
        Segments(Vgg(), ["features.1"], X)


@pytest.mark.parametrize(
    ("make", "spot", "said"),
    [
        (Across, "second", r"cut at 'second': `convolution` in 'short' reads what 'first' puts out"),
        (lambda: zoo("resnet8"), "layer2.0.conv1", r"in 'layer2.0.downsample.0' reads what 'layer1' puts out"),
        (lambda: zoo("ShuffleV2"), "layer1.2.relu2", r"`cat` in 'layer1.2' reads what 'layer1.1' puts out"),
        (lambda: zoo("wrn_16_1"), "block1.layer.1.bn1", r"`add` in 'block1.layer.1' reads what 'block1.layer.0'"),
        (lambda: Vit(2, 8), "blocks.1.mlp", r"`add` in 'blocks.1' reads what 'blocks.0' puts out"),
        (Peek, "first", r"`_local_scalar_dense` asks for the values of the picture"),
        (Twice, "block", r"ran 2 times.*PATH#2"),
        (Twice, "block#3", r"ran 2 times"),
        (Inside, "frist", r"no layer 'frist'.*Did you mean 'first'"),
    ],
)
def test_a_cut_that_is_none_is_refused_by_name(make: Callable[[], nn.Module], spot: str, said: str) -> None:
    net = make()
    with pytest.raises(ModelError, match=f"(?s){said}"):
        Segments(net, [spot], X)
    assert net.training
    assert not any("forward" in m.__dict__ for m in net.modules()), "restored after the refusal"


def test_spots_out_of_order_are_refused() -> None:
    with pytest.raises(ModelError, match="gets to 'layer1' before 'layer2'"):
        Segments(zoo("resnet8"), ["layer2", "layer1"], X)


class Counts(nn.Module):
    """Adds how often it was called: a state outside what modules put out."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head, self.n = nn.Linear(4, 4), nn.Linear(4, 2), 0

    def forward(self, x: Tensor) -> Tensor:
        self.n += 1
        return self.head(self.body(x)) + self.n


def test_a_net_with_a_memory_is_refused() -> None:
    with pytest.raises(ModelError, match=r"Counts cut at body gives other logits than uncut"):
        Segments(Counts(), ["body"], torch.rand(2, 4))


def test_where_the_last_vector_is() -> None:
    assert Trace(zoo("resnet8"), X).penultimate() == "fc@in"
    assert Trace(Vit(1, 8), X).penultimate() == "head@in"
    assert Trace(nn.Sequential(nn.Conv2d(3, 2, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten()), X).penultimate() is None


def test_a_vision_transformer_of_transformers() -> None:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.ViTConfig(
        hidden_size=16, num_hidden_layers=3, num_attention_heads=2, intermediate_size=32, image_size=32, patch_size=8
    )
    net = transformers.ViTForImageClassification(config).eval()
    layers = next(p for p, m in net.named_modules() if isinstance(m, nn.ModuleList) and len(m) == 3)
    segments = Segments(net, [f"{layers}.0", f"{layers}.2", "classifier@in"], X)
    assert torch.equal(composed(segments, X), net(X).logits)
    assert torch.equal(composed(segments, X[:2]), net(X[:2]).logits)
    with pytest.raises(ModelError, match=r"`add` in .* reads what"):
        Segments(
            net, [next(p for p, m in net.named_modules() if p.startswith(f"{layers}.1.") and "mlp" in p.lower())], X
        )
