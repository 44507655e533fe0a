"""The zoo against the tables of the field, and against numbers of RepDistiller's own nets (tests/golden/zoo.json)."""

import hashlib
import importlib
import json
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from potstill import cost
from potstill.errors import ModelError
from potstill.models.base import ZooNet
from potstill.models.catalog import CATALOG
from potstill.models.cnn import CNN
from potstill.models.doc001 import Student, Teacher
from potstill.models.resnet import ResNet, resnet8
from potstill.models.wrn import WideResNet
from potstill.taps import Tapped

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "zoo.json").read_text())
del GOLDEN["about"]
LARGE = {"wrn_28_10", "ResNet101", "ResNet152"}

TABLE = {  # parameters, millions of multiply-adds, number of convolutions, of BatchNorms; at 100 classes
    "resnet8": (83_892, 12.51, 9, 9),
    "resnet14": (181_108, 26.66, 15, 15),
    "resnet20": (278_324, 40.82, 21, 21),
    "resnet32": (472_756, 69.13, 33, 33),
    "resnet44": (667_188, 97.44, 45, 45),
    "resnet56": (861_620, 125.75, 57, 57),
    "resnet110": (1_736_564, 253.16, 111, 111),
    "resnet8x4": (1_233_540, 177.07, 10, 10),
    "resnet32x4": (7_433_860, 1083.04, 34, 34),
    "wrn_16_1": (180_916, 26.66, 15, 13),
    "wrn_16_2": (703_284, 101.12, 16, 13),
    "wrn_40_1": (569_780, 83.29, 39, 37),
    "wrn_40_2": (2_255_156, 327.61, 40, 37),
    "vgg8": (3_965_028, 96.19, 5, 5),
    "vgg11": (9_277_284, 209.44, 8, 8),
    "vgg13": (9_462_180, 284.94, 10, 10),
    "vgg16": (14_774_436, 398.18, 13, 13),
    "vgg19": (20_086_692, 511.43, 16, 16),
    "ResNet50": (23_705_252, 1298.01, 53, 53),
    "mobile_half": (812_836, 6.52, 53, 53),
    "ShuffleV1": (949_258, 38.69, 49, 49),
    "ShuffleV2": (1_355_528, 44.50, 56, 56),
    "mobilev2": (2_353_060, 22.38, 53, 53),
    "wrn_28_10": (36_536_884, 5243.39, 28, 25),
}


def make(name: str, device: str = "meta", **kwargs: object) -> ZooNet:
    module, _, factory = CATALOG[name].target.partition(":")
    with torch.device(device):
        return getattr(importlib.import_module(module), factory)(**kwargs)


def fill(net: nn.Module) -> None:
    """Weights that any code can make again: no random generator."""
    for i, (name, value) in enumerate(sorted(net.state_dict().items()), 1):
        if value.is_floating_point():
            u = torch.sin(torch.arange(value.numel(), dtype=torch.float64) * 12.9898 + i * 78.233) * 43758.5453
            u = 2 * (u - u.floor()).view(value.shape) - 1
            if name.endswith("running_var"):
                u = 1 + u / 2
            elif value.ndim == 1:
                u = u / 10 + ("weight" in name)
            else:
                u *= (3 / value[0].numel()) ** 0.5
            value.copy_(u)


def says(net: ZooNet, x: Tensor) -> list[Tensor]:
    """Stem, stages, penultimate vector, logits: heard by Tapped, which refuses spots that are overwritten in place."""
    spots = [net.stem, *net.stages, f"{net.head}@in", "logits"]
    with torch.no_grad():
        out = Tapped(net, spots)(x)
    return [out[s] for s in spots]


@pytest.mark.parametrize("name", CATALOG)
def test_costs_are_those_of_the_table(name: str) -> None:
    net = make(name, num_classes=100)
    entry = CATALOG[name]
    assert (cost.parameters(net), cost.macs(net, (3, 32, 32))) == (entry.parameters, entry.macs)
    if name in TABLE:
        convs = sum(isinstance(m, nn.Conv2d) for m in net.modules())
        norms = sum(isinstance(m, nn.BatchNorm2d) for m in net.modules())
        assert (entry.parameters, round(entry.macs / 1e6, 2), convs, norms) == TABLE[name]
        assert entry.lr == (0.01 if name.startswith(("mobile", "Shuffle")) else 0.05)


@pytest.mark.parametrize(("name", "millions", "macs"), [("ResNet18", 11.220, 555), ("ResNet34", 21.328, 1159)])
def test_costs_of_the_shorter_table(name: str, millions: float, macs: int) -> None:
    assert (round(CATALOG[name].parameters / 1e6, 3), CATALOG[name].macs // 10**6) == (millions, macs)


@pytest.mark.parametrize("name", GOLDEN)
def test_published_checkpoints_fit(name: str) -> None:
    names = sorted([k, list(v.shape)] for k, v in make(name, num_classes=100).state_dict().items())
    assert hashlib.sha256(json.dumps(names).encode()).hexdigest()[:16] == GOLDEN[name]["keys"]


@pytest.mark.parametrize("name", [n for n, g in GOLDEN.items() if "logits" in g])
def test_says_what_the_reference_says(name: str) -> None:
    net = make(name, "cpu", num_classes=100).double().eval()
    fill(net)
    x = torch.sin(torch.arange(3 * 32 * 32, dtype=torch.float64) * 0.37).view(1, 3, 32, 32)
    _, *features, logits = says(net, x)
    expected = GOLDEN[name]
    torch.testing.assert_close(logits[0, :3].tolist(), expected["logits"], rtol=1e-6, atol=1e-9)
    torch.testing.assert_close([f.mean().item() for f in features], expected["means"], rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("name", CATALOG)
def test_spots_have_the_shapes_of_the_table(name: str) -> None:
    x = torch.zeros(2, 3, 32, 32, device="meta")
    *features, logits = says(make(name, num_classes=7), x)
    assert logits.shape == (2, 7)
    assert all(f.ndim == 4 for f in features[:-1])
    assert features[-1].ndim == 2
    if "shapes" in GOLDEN.get(name, {}):
        assert [list(f.shape[1:]) for f in features] == GOLDEN[name]["shapes"]


@pytest.mark.parametrize("name", [n for n in CATALOG if n not in LARGE])
def test_learns_from_grey_pictures_of_another_size(name: str) -> None:
    size = 48 if name == "doc001_student" else 40
    kwargs = {"size": size} if name == "doc001_student" else {}
    x = torch.zeros(2, 1, size, size, device="meta")
    net = make(name, num_classes=3, in_channels=1, **kwargs).train()
    logits = net(x)
    logits.sum().backward()
    assert logits.shape == (2, 3)
    assert all(p.grad is not None for p in net.parameters())


@pytest.mark.parametrize("name", CATALOG)
def test_nothing_works_in_place(name: str) -> None:
    assert not any(getattr(m, "inplace", False) for m in make(name).modules())


def test_vgg_pools_a_fourth_time_from_64_pixels_on() -> None:
    net = make("vgg8")
    assert [f.shape[2] for f in says(net, torch.zeros(1, 3, 64, 64, device="meta"))[1:5]] == [32, 16, 8, 4]
    assert [f.shape[2] for f in says(net, torch.zeros(1, 3, 32, 32, device="meta"))[1:5]] == [16, 8, 4, 4]


def test_document_001() -> None:
    teacher, student = Teacher(), Student()
    assert (cost.parameters(teacher), cost.parameters(student)) == (14_719_818, 1_188_170)
    assert round(cost.macs(student, (3, 32, 32)) / 1e6, 1) == 152.8
    assert round(cost.macs(teacher, (3, 32, 32)) / 1e6, 1) == 313.2
    x = torch.rand(2, 3, 32, 32)
    _, *maps, vector, _ = says(student.eval(), x)
    assert [tuple(f.shape[1:]) for f in [*maps, vector]] == [(64, 16, 16), (128, 8, 8), (256, 4, 4), (4096,)]
    assert [f.shape[1:] for f in says(teacher, x)[1:4]] == [f.shape[1:] for f in maps]


def test_document_001_may_put_a_relu_on_the_logits() -> None:
    torch.manual_seed(0)
    plain = Teacher(num_classes=20).eval()
    clipped = Teacher(num_classes=20, relu_logits=True).eval()
    clipped.load_state_dict(plain.state_dict())
    x = torch.rand(2, 3, 32, 32)
    assert plain(x).min() < 0
    torch.testing.assert_close(clipped(x), plain(x).relu())


def test_the_student_of_document_001_is_tied_to_its_size() -> None:
    with pytest.raises(ModelError, match=r"32x32, got 8x8.*Linear"):
        Student()(torch.rand(1, 3, 8, 8))
    assert Student(size=8)(torch.rand(2, 3, 8, 8)).shape == (2, 10)


@pytest.mark.parametrize(("widths", "parameters"), [((8, 16), 1_466), ((16, 32, 32), 14_538), ([4], 98)])
def test_cnn_on_digits(widths: tuple[int, ...], parameters: int) -> None:
    net = CNN(widths, num_classes=10, in_channels=1)
    assert cost.parameters(net) == parameters
    stages = says(net, torch.rand(3, 1, 8, 8))[1:-2]
    assert [tuple(f.shape) for f in stages] == [(3, w, 8 >> i, 8 >> i) for i, w in enumerate(widths)]


@pytest.mark.parametrize("widths", [(), (8, 0), (8.0,), "ab", 8, (True,)])
def test_cnn_refuses_strange_widths(widths: object) -> None:
    with pytest.raises(ModelError, match="widths"):
        CNN(widths)  # type: ignore[arg-type]


def test_strange_depths_are_refused() -> None:
    with pytest.raises(ModelError, match=r"6n \+ 2"):
        ResNet(18)
    with pytest.raises(ModelError, match=r"6n \+ 4"):
        WideResNet(18)


def test_weights_start_as_he_et_al_say() -> None:
    torch.manual_seed(0)
    weight = resnet8().layer3[0].conv1.weight  # from 32 to 64 channels
    assert weight.std().item() == pytest.approx((2 / (9 * 64)) ** 0.5, rel=0.02)
    assert not make("wrn_16_1", "cpu").fc.bias.any()
    head = make("vgg8", "cpu").classifier
    assert head.weight.std().item() == pytest.approx(0.01, rel=0.02)
    assert not head.bias.any()
