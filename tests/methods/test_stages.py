from typing import Any

import pytest
import torch
from torch import nn

from potstill.errors import ConfigError
from potstill.losses._paraphraser import Paraphrase
from potstill.methods import PRESETS, expand
from potstill.methods.base import Before
from potstill.methods.build import Built, build
from potstill.methods.stages import reached
from potstill.schemes.scheme import Scheme, total
from potstill.types import Batch
from tests.methods.test_probe import Vgg

X = torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))
FACTS = {"num_classes": 5, "num_samples": 4, "labels": torch.arange(4)}


def batch() -> Batch:
    i = torch.arange(4)
    return Batch(X, i, i, i)


class Counted(Vgg):
    """A net that counts how often it runs."""

    runs = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.runs += 1
        return super().forward(x)


def made(method: str, **changed: Any) -> tuple[Counted, Counted, Built]:
    torch.manual_seed(0)
    student, teacher = Counted(inplace=False), Counted((8, 12, 16), inplace=False)
    if method == "fsp":
        student = Counted((8, 12, 16), inplace=False)
    losses = expand(method)
    losses[method.partition("+")[0]] |= changed
    built = build(student, teacher, losses, X, facts=FACTS)
    student.runs = teacher.runs = 0
    return student, teacher, built


def step(scheme: Scheme) -> dict[str, torch.Tensor]:
    scheme.begin().train()
    optimizer = torch.optim.SGD([p for p in scheme.parameters() if p.requires_grad], lr=0.1, weight_decay=0.1)
    losses = scheme(batch())
    total(losses).backward()
    optimizer.step()
    optimizer.zero_grad()
    return losses


def state(module: nn.Module) -> dict[str, torch.Tensor]:
    return {k: v.clone() for k, v in module.state_dict().items()}


def changed(before: dict[str, torch.Tensor], module: nn.Module) -> set[str]:
    return {k.rpartition(".")[0] for k, v in module.state_dict().items() if not torch.equal(v, before[k])}


BODY = {"features.0", "features.1", "features.4", "features.5", "features.8", "features.9"}


@pytest.mark.parametrize(
    ("method", "learns"),
    [("ab", BODY), ("fsp", BODY), ("fitnet_2stage", {"features.0", "features.1", "features.4", "features.5"})],
)
def test_the_first_stage_trains_what_its_loss_reaches_and_the_second_runs_no_teacher(
    method: str, learns: set[str]
) -> None:
    student, teacher, built = made(method)
    (first,) = built.before
    layers = {n for n, m in student.named_modules() if [*m.parameters(recurse=False)]}
    before = state(student)
    assert step(first.scheme).keys() == {method}
    assert changed(before, student) == learns & layers, "weights and running statistics alike"
    assert (student.runs, teacher.runs) == (1, 1)
    held = [m for m in student.modules() if not m.training]
    assert student.classifier in held
    assert not student.classifier.weight.requires_grad, "DDP waits for the gradient of what has one"
    assert not any(student.get_submodule(name) in held for name in learns & layers)
    step(built.scheme)
    assert changed(before, student) == layers, "all of it learns in the main stage"
    assert teacher.runs == (2 if method == "fitnet_2stage" else 1), "labels need no teacher"
    assert all(p.requires_grad for p in student.parameters())


def test_without_its_stage_a_method_is_joint() -> None:
    for off in (None, False):
        _, teacher, built = made("ab", before=off)
        assert not built.before
        assert step(built.scheme).keys() == {"ce", "ab"}
        assert teacher.runs == 1


def test_adapters_go_on_into_the_main_stage() -> None:
    _, _, built = made("fitnet_2stage", weight=0.5)
    (first,) = built.before
    assert first.scheme.links[0].loss is built.scheme.links[1].loss
    assert first.up_to == ("features.6",)


def test_the_paraphraser_is_trained_on_the_teacher_alone_and_frozen_then() -> None:
    student, teacher, built = made("ft", rate=0.25)
    (first,) = built.before
    pre, ft = first.scheme.links[0].loss, built.scheme.links[1].loss
    assert isinstance(pre, Paraphrase)
    assert pre.paraphraser is ft.paraphraser
    assert pre.paraphraser.encoder[-2].out_channels == 4, "its settings are those of the method"
    assert not any("paraphraser" in notice for notice in built.notices)
    before, weights = state(student), state(pre)
    step(first.scheme)
    assert (student.runs, teacher.runs) == (0, 1)
    assert not changed(before, student)
    assert len(changed(weights, pre)) == 6
    weights, translator = state(pre), state(ft.translator)
    step(built.scheme)
    assert not changed(weights, pre)
    assert not any(p.requires_grad for p in pre.parameters())
    assert changed(translator, ft.translator)
    assert any("random" in notice for notice in made("ft", before=None)[2].notices)


def test_pad_takes_over_the_regressor_of_its_plain_distance() -> None:
    student, _, built = made("pad+kd")
    (first,) = built.before
    assert step(first.scheme).keys() == {"ce", "kd", "pad"}
    plain, pad = first.scheme.links[-1].loss, built.scheme.links[1].loss
    assert plain.regressor is pad.regressor
    s, t = torch.rand(4, 8), torch.rand(4, 16)
    torch.testing.assert_close(plain(s, t), (plain.regressor(s) - t).square().mean(1))
    assert (first.plan.share, first.plan.main_lr, first.plan.alone) == (0.75, 0.1, False)
    step(built.scheme)
    assert all(p.requires_grad for p in student.parameters())


def test_what_is_reached() -> None:
    net = Vgg(inplace=False)
    net.features[4].weight.requires_grad_(False)
    net.features[0].eval()
    used, still = reached(net, ["features.6"], X)
    names = {id(p): n for n, p in net.named_parameters()}
    assert {names[id(p)] for p in used} == {
        n for n in names.values() if n.split(".")[1] in "0145" and n != "features.4.weight"
    }
    assert net.classifier in still
    assert net.features[1] not in still
    assert [net.features[0].training, net.training] == [False, True], "left as it was"
    assert all(p.grad is None for p in net.parameters())
    net.features[10] = nn.Dropout()
    assert net.features[10] in reached(net, ["features.6"], X)[1], "layers without parameters too"


def test_a_stage_of_ones_own() -> None:
    built = build(Vgg(), Vgg((8, 12, 16)), {"ce": {}, "at": {"before": {"share": 0.25, "lr": 0.5}}}, X)
    assert built.before[0].plan == Before(0.25, lr=0.5)
    assert [*step(built.scheme)] == ["ce", "at"]
    with pytest.raises(ConfigError, match=r"before: .*shares.*Known: share, use"):
        build(Vgg(), Vgg(), {"ce": {}, "at": {"before": {"shares": 0.25}}}, X)
    with pytest.raises(ConfigError, match="no loss has a weight"):
        build(Vgg(), Vgg(), {"at": {"weight": 0}}, X)


def test_published_shares() -> None:
    shares = {name: p.before.share for name, p in PRESETS.items() if p.before}
    assert shares == {"ab": 30 / 270, "fsp": 30 / 270, "fitnet_2stage": 30 / 270, "ft": 30 / 240, "pad": 90 / 120}
    assert expand("fitnet_2stage")["soft_ce"] == {"weight": {"from": 4.0, "to": 1.0}, "temperature": 3.0}
    assert expand("fitnet_2stage+kd").keys() == {"ce", "fitnet_2stage", "kd"}
    assert "4 " not in str(PRESETS["ft"].before)
    assert "its own parameters only; learning rate x 0.2" in str(PRESETS["ft"].before)
