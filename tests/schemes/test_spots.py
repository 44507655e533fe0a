"""Every method, every kind of student; what cannot be is refused in a sentence."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from potstill.errors import ConfigError, ModelError
from potstill.losses import KD, FitNet
from potstill.methods import PRESETS
from potstill.schemes import Link, offline, total
from potstill.schemes.spots import spot_adaptive
from tests.methods.test_probe import Vgg, Vit
from tests.schemes.spot_case import X, adaptive, batch, plain, zoo

SMALL = {"student": "resnet8", "teacher": "resnet8"}


def two_steps(model: Any) -> None:
    assert model.training
    optimizer = torch.optim.SGD(model.parameters(), 1e-4)
    for _ in range(2):
        losses = model(batch())
        assert all(v.shape == (6,) and v.isfinite().all() for v in losses.values())
        optimizer.zero_grad()
        total(losses).backward()
        assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)
        optimizer.step()
    assert all(p.grad is not None for p in model.own_parameters())
    assert any(p.grad.any() for p in model.policy.parameters())
    assert not model.nets["teacher"].training or not any(m.training for m in model.nets["teacher"].net.modules())


@pytest.mark.parametrize("method", PRESETS)
def test_every_method_runs_spot_adaptively(method: str) -> None:
    model = adaptive(method if method == "kd" else f"{method}+kd", nets=SMALL)
    assert model.spots[-1] == ("logits", "logits")
    assert set(model.weighed) == {link.name for link in model.links} - {"ce"}
    two_steps(model)


STUDENTS: dict[str, Any] = {
    "a VGG of a user's": lambda: Vgg(inplace=False),
    "mobile": "mobile_half",
    "shuffle": "ShuffleV2",
    "transformer": lambda: Vit(3, 8),
}


@pytest.mark.parametrize(
    ("student", "method"),
    [
        *((s, "at+kd") for s in STUDENTS),
        *((s, m) for s in ("mobile", "transformer") for m in ("kd", "crd+kd", "rkd+kd")),
    ],
)
def test_every_kind_of_student(student: str, method: str) -> None:
    two_steps(adaptive(method, nets={"student": STUDENTS[student], "teacher": "resnet8"}))


def test_a_transformer_teaches_a_transformer_and_adapters_of_its_own() -> None:
    two_steps(adaptive("vid+kd", nets={"student": lambda: Vit(3, 8), "teacher": lambda: Vit(4, 12)}))


class NoHead(nn.Module):
    """Classifies by a convolution: there is no penultimate vector, so the policy reads the logits."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.last = nn.Sequential(nn.Conv2d(3, 6, 3, 2), nn.ReLU()), nn.Conv2d(6, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.body(x)).mean((2, 3))


def test_without_a_vector_the_policy_reads_the_logits() -> None:
    model = adaptive("at+kd", nets={"student": NoHead, "teacher": "resnet8"})
    assert model.vectors == ("logits", "fc@in")
    two_steps(model)


def test_without_routing_no_net_need_be_cut() -> None:
    class Odd(NoHead):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x + 0 * x.mean().item())

    assert adaptive("at+kd", rule="random", nets={"student": Odd, "teacher": "resnet8"})(batch())["at"].shape == (6,)
    with pytest.raises(ModelError, match=r"Odd cut at .* asks for the values of the picture"):
        adaptive("at+kd", nets={"student": Odd, "teacher": "resnet8"})


def test_what_the_scheme_must_have() -> None:
    with pytest.raises(ModelError, match="nothing to decide"):
        adaptive("none")
    scheme = plain("at+kd")
    scheme.links[1].name = "routing"
    with pytest.raises(ModelError, match="a link is called 'routing'"):
        spot_adaptive(scheme, X)
    scheme = plain("at+kd")
    scheme.nets["teacher"] = nn.Identity()
    with pytest.raises(ModelError, match=r"inside the teacher, which this scheme does not have live \(Identity\)"):
        spot_adaptive(scheme, X)


def test_spots_that_cross_are_refused() -> None:
    links = [
        Link(FitNet((16, 16, 16), (32, 8, 8)), at=("layer1", "layer2"), name="up"),
        Link(FitNet((32, 8, 8), (16, 16, 16)), at=("layer2", "layer1"), name="down"),
    ]
    with pytest.raises(ModelError, match="pairs layer1 - layer2 and layer2 - layer1 cross"):
        spot_adaptive(offline(zoo("resnet8"), zoo("resnet8"), links), X)


def test_a_skip_round_the_spot_is_refused_by_name() -> None:
    link = Link(FitNet((32, 8, 8), (32, 8, 8)), at="layer2.0.bn1")
    with pytest.raises(ModelError, match=r"(?s)cut at 'layer2.0.bn1'.*'layer2.0.downsample.0' reads what 'layer1'"):
        spot_adaptive(offline(zoo("resnet8"), zoo("resnet8"), [link]), X)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"rule": "adaptve"}, "'adaptve' is none of.*Did you mean 'adaptive'"),
        ({"relation": "sub"}, "spots.relation: 'sub' is none of masked, subset"),
        ({"temprature": 1.0}, "no such option 'temprature'.*Did you mean 'temperature'"),
        ({"share": 1.5}, r"share must be in \[0, 1\], got 1.5"),
        ({"gamma": 0.0}, "gamma must be above 0"),
        ({"bridges": "relu"}, "none of plain, norm"),
    ],
)
def test_bad_options_are_named(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=f"(?s){said}"):
        spot_adaptive(plain("kd"), X, **options)


def test_names_are_told_apart_where_one_spot_has_two_partners() -> None:
    links = [
        Link(FitNet((16, 16, 16), (16, 16, 16)), at=("layer1", "layer1"), name="a"),
        Link(FitNet((16, 16, 16), (32, 8, 8)), at=("layer1", "layer2"), name="b"),
        Link(KD()),
    ]
    model = spot_adaptive(offline(zoo("resnet8"), zoo("resnet8"), links), X)
    assert model.names == ["layer1~layer1", "layer1~layer2", "logits"]
    two_steps(model.train())
