from collections.abc import Callable

import pytest
import torch
from torch import nn

from potstill.losses.ofd import OFD, margin
from potstill.methods.build import build
from potstill.methods.probe import look
from potstill.models import resolve
from potstill.taps import Tapped, find
from potstill.types import Batch

X = torch.rand(2, 3, 16, 16)


class Residual(nn.Module):
    """torchvision's basic block: one ReLU, in place, for both of its activations; the sum in place as well."""

    def __init__(self, c: int, d: int, stride: int, relu: nn.Module | None = None) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(c, d, 3, stride, 1, bias=False), nn.BatchNorm2d(d)
        self.relu = relu or nn.ReLU(inplace=True)
        self.conv2, self.bn2 = nn.Conv2d(d, d, 3, 1, 1, bias=False), nn.BatchNorm2d(d)
        self.downsample = None
        if stride > 1:
            self.downsample = nn.Sequential(nn.Conv2d(c, d, 1, stride, bias=False), nn.BatchNorm2d(d))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        out += x if self.downsample is None else self.downsample(x)
        return self.relu(out)


class Torchvision(nn.Module):
    """Its ResNet, small. ``relu``: one for the whole net."""

    def __init__(self, widths: tuple[int, ...] = (4, 6, 8), relu: nn.Module | None = None) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, widths[0], 3, 1, 1, bias=False), nn.BatchNorm2d(widths[0])
        self.relu = relu or nn.ReLU(inplace=True)
        for i, (c, d) in enumerate(zip((widths[0], *widths), widths, strict=False)):
            first = Residual(c, d, 1 + (i > 0), relu)
            self.add_module(f"layer{i + 1}", nn.Sequential(first, Residual(d, d, 1, relu)))
        self.avgpool, self.fc = nn.AdaptiveAvgPool2d(1), nn.Linear(widths[-1], 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.relu(self.bn1(self.conv1(x)))
        return self.fc(self.avgpool(self.layer3(self.layer2(self.layer1(x)))).flatten(1))


@pytest.mark.parametrize("shared", [None, nn.ReLU(), nn.ReLU(inplace=True)])
def test_before_an_activation_that_runs_often_or_works_in_place(shared: nn.Module | None) -> None:
    net = Torchvision(relu=shared).eval()
    seen = look(net, X)
    assert seen.stages == ("layer1", "layer2", "layer3")
    spots = [f"relu@in#{1 + 4 * i}" if shared else f"layer{i}.1.relu@in#2" for i in (1, 2, 3)]
    assert list(seen.before.values()) == spots
    assert seen.norms == {spot: f"layer{i}.1.bn2" for i, spot in enumerate(spots, 1)}
    said = Tapped(net, [*spots, *seen.stages])(X)
    for spot, stage in zip(spots, seen.stages, strict=True):
        assert (said[spot] < 0).any()
        assert torch.equal(said[spot].relu(), said[stage]), "nothing but the activation stands between them"


def test_an_activation_that_is_added_to_in_place_ends_nothing() -> None:
    class After(Residual):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            out = self.relu(self.bn1(self.conv1(x)))
            out -= x
            return out

    net = nn.Sequential(
        nn.Conv2d(3, 4, 3, 1, 1), After(4, 4, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5)
    )
    net.stages = ("1",)  # type: ignore[assignment]
    assert look(net, X).before == {"1": "1"}


def test_the_batchnorm_beside_is_that_of_the_block_that_calls() -> None:
    class Sum(Residual):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.relu(x + self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x))))))

    relu = nn.ReLU()
    blocks = [Sum(4, 4, 1, relu) for _ in range(3)]
    net = nn.Sequential(nn.Conv2d(3, 4, 3, 1, 1), *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5))
    net.stages = ("1", "3")  # type: ignore[assignment]
    assert look(net, X).norms == {"1.relu@in#2": "1.bn2", "1.relu@in#6": "3.bn2"}


def test_hugging_face_resnets() -> None:
    transformers = pytest.importorskip("transformers")
    for kind in ("basic", "bottleneck"):
        config = transformers.ResNetConfig(
            embedding_size=4, hidden_sizes=[8, 12], depths=[1, 2], layer_type=kind, num_labels=5
        )
        net = transformers.ResNetForImageClassification(config).eval()
        seen = look(net, torch.rand(2, 3, 32, 32))
        assert [seen.layers[stage].shape[1] for stage in seen.stages] == [16, 8, 4], "the stem, and its two stages"
        last = "resnet.encoder.stages.1.layers.1"
        spot = f"{last}.activation@in"
        assert seen.before[seen.stages[-1]] == spot
        assert seen.norms[spot] == f"{last}.layer.{1 if kind == 'basic' else 2}.normalization"
        said = Tapped(net, [spot, seen.stages[-1]])(torch.rand(2, 3, 32, 32))
        assert torch.equal(said[spot].relu(), said[seen.stages[-1]])


def one_relu_a_block(name: str) -> nn.Module:
    """A net of the zoo whose ReLUs work in place, one for all activations of a block."""
    net = resolve(f"zoo:{name}", num_classes=5).module
    for module in net.modules():
        if hasattr(module, "relu2"):
            for child in [n for n, _ in module.named_children() if n.startswith("relu")]:
                setattr(module, child, nn.ReLU(inplace=True) if child == "relu1" else module.relu1)
    return net


NETS: dict[str, Callable[[], nn.Module]] = {
    "resnet8": lambda: one_relu_a_block("resnet8"),
    "ResNet18": lambda: one_relu_a_block("ResNet18"),
    "wrn_16_1": lambda: resolve("zoo:wrn_16_1", num_classes=5).module,
    "torchvision": lambda: Torchvision(),
}


@pytest.mark.parametrize("method", ["ab", "ofd", "reviewkd"])
@pytest.mark.parametrize("name", NETS)
def test_methods_that_look_before_activations_learn_from_them(name: str, method: str) -> None:
    torch.manual_seed(0)
    student, teacher = NETS[name](), NETS[name]()
    built = build(student, teacher, {method: {"before": None}}, X)
    assert not [notice for notice in built.notices if "activation" in notice]
    heard = [t for _, t in built.rows[0]["at"] if "relu" in t]
    assert len(heard) == len(look(teacher, X).stages)
    said = Tapped(teacher.eval(), heard)(X)
    assert all((said[spot] < 0).any() for spot in heard)
    y = torch.tensor([0, 1])
    built.scheme.train()(Batch(X, y, y, y, progress=1.0))[method].mean().backward()
    first = next(p for p in student.parameters() if p.requires_grad)
    assert first.grad is not None
    assert first.grad.isfinite().all()
    assert first.grad.abs().sum() > 0


def test_margins_of_a_wide_resnet_come_from_the_batchnorms_that_open_the_next_blocks() -> None:
    teacher = resolve("zoo:wrn_16_1", num_classes=5).module
    norms = [find(teacher, path) for path in ("block2.layer.0.bn1", "block3.layer.0.bn1", "bn1")]
    for norm in norms:
        nn.init.normal_(norm.weight, 1, 0.1)
        nn.init.normal_(norm.bias)
    loss = build(resolve("zoo:resnet8", num_classes=5).module, teacher, {"ofd": {}}, X).scheme.links[0].loss
    assert isinstance(loss, OFD)
    for held, norm in zip(loss.margins, norms, strict=True):
        torch.testing.assert_close(held.value, margin(norm.weight, norm.bias))


def test_listening_applies_no_batchnorm_a_second_time() -> None:
    torch.manual_seed(0)
    nets = {kind: resolve("zoo:wrn_16_1", num_classes=5).module.train() for kind in ("heard", "plain")}
    nets["plain"].load_state_dict(nets["heard"].state_dict())
    spots = list(look(nets["heard"], X).before.values())
    said = Tapped(nets["heard"], spots)(X)
    torch.testing.assert_close(nets["plain"](X), said["logits"], rtol=0, atol=0)
    heard, plain = (net.state_dict() for net in nets.values())
    assert all(torch.equal(value, plain[key]) for key, value in heard.items())
    assert int(heard["block2.layer.0.bn1.num_batches_tracked"]) == 1
    torch.testing.assert_close(said[spots[0]].mean((0, 2, 3)), torch.zeros(16), atol=1e-5, rtol=0)
