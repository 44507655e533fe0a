"""The routing network against its formula; what it reuses; what it leaves as it was."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from potstill.models import Preprocess
from potstill.schemes import Link, Scheme, total
from potstill.schemes.routing import fused
from potstill.schemes.spots import spot_adaptive
from tests.methods.test_probe import Vit
from tests.schemes.spot_case import TEACHER, X, adaptive, batch, plain, say, zoo

PAIRS = {
    "convolutional": {},
    "residual, tokens": {"student": lambda: Vit(2, 8), "teacher": lambda: zoo("resnet8")},
    "a wide teacher": {"student": "resnet8", "teacher": "wrn_16_1"},
}


def by_hand(model, x: Tensor, a: Tensor) -> Tensor:
    """Algorithm 1 of the paper, with branches taken sample by sample."""
    routing = model.routing
    student, teacher = routing.ends
    nets = [m.net.eval() for m in (student, teacher)]
    rows = []
    for b in range(len(x)):
        s, t = (m.prepare(x[b : b + 1]) if m.prepare else x[b : b + 1] for m in (student, teacher))
        for k in range(len(routing.branches) + 1):
            s, t = routing.student[k](s), routing.teacher[k](t)
            if k < len(routing.branches):
                to_t, to_s = routing.to_teacher[k](s), routing.to_student[k](t)
                s, t = (to_s, t) if a[b, k] else (s, to_t)
        s, t = (z if m.order is None else z[:, m.order] for z, m in ((s, student), (t, teacher)))
        rows.append(t if a[b, -1] else s)
    for net in nets:
        net.train()
    return torch.cat(rows)


@pytest.mark.parametrize("pair", PAIRS)
def test_every_way_through_both_nets(pair: str) -> None:
    model = adaptive("at+kd", nets=PAIRS[pair], bridges="plain")
    n = len(model.spots)
    ways = torch.cartesian_prod(*[torch.tensor([0.0, 1.0])] * n)[: len(X) * 4]
    model.eval()  # no BatchNorm in "plain" bridges: what is left is the same for one sample
    for a in ways.split(len(X)):
        x = X[: len(a)]
        assert torch.allclose(model.routing(x, a), by_hand(model, x, a), atol=1e-5)


def test_all_student_is_the_student_in_eval_mode_and_all_teacher_the_teacher() -> None:
    model = adaptive("at+kd")
    said = {name: model.nets[name].eval()(X)["logits"] for name in ("student", "teacher")}
    for a, name in ((torch.zeros(6, 3), "student"), (torch.ones(6, 3), "teacher")):
        assert torch.equal(model.routing(X, a), said[name])


def test_each_net_reads_pictures_and_classes_in_its_own_way() -> None:
    torch.manual_seed(0)
    order = torch.tensor([4, 2, 0, 1, 3])
    prepare = {"student": Preprocess((0.5,) * 3, (0.2,) * 3), "teacher": Preprocess((0.1,) * 3, (0.7,) * 3, size=24)}
    scheme = plain("at+kd", student="resnet8", prepare=prepare, order={"teacher": order})
    model = spot_adaptive(scheme, X, bridges="plain").eval()
    assert torch.equal(model.routing(X, torch.ones(6, len(model.spots))), model.nets["teacher"](X)["logits"])
    assert torch.equal(model.routing(X, torch.zeros(6, len(model.spots))), model.nets["student"](X)["logits"])
    a = torch.tensor([[1.0, 0, 0, 1], [0, 1, 0, 1], [0, 0, 1, 1], [1, 1, 0, 0], [0, 1, 1, 0], [1, 0, 1, 0]])[
        :, -len(model.spots) :
    ]
    assert torch.allclose(model.routing(X, a), by_hand(model, X, a), atol=1e-5)
    said = model.nets["teacher"](X)
    assert torch.equal(model.routing(X, a, said), model.routing(X, a)), "reuse changes nothing"


def test_the_teachers_first_segment_is_not_run_again() -> None:
    model, ran = say(adaptive("at+kd"), True), list[str]()
    for path, module in model.nets["teacher"].net.net.named_modules():
        module.register_forward_hook(lambda m, args, out, path=path: ran.append(path))
    model(batch())
    assert ran.count("features.stage1.0") == 1
    assert ran.count("features.stage2.0") == 2
    only = say(adaptive("crd+kd"), True)
    for path, module in only.nets["teacher"].net.net.named_modules():
        module.register_forward_hook(lambda m, args, out, path=path: ran.append(f"crd {path}"))
    only(batch())
    assert [ran.count(f"crd {path}") for path in ("features.stage1.0", "features.stage2.0", "fc")] == [1, 1, 2]


class Dropped(nn.Module):
    """BatchNorm that is to stay in eval mode, BatchNorm, dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.still, self.bn = nn.Conv2d(3, 4, 3, 2), nn.BatchNorm2d(4), nn.BatchNorm2d(4)
        self.drop, self.fc = nn.Dropout(), nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.drop(self.bn(self.still(self.a(x)))).mean((2, 3)))


def test_modes_buffers_and_flags_are_as_before_even_after_a_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    from potstill.losses import FitNet

    torch.manual_seed(0)
    student = Dropped()
    link = Link(FitNet((4, 7, 7), (4, 7, 7)), at="bn")
    model = spot_adaptive(Scheme({"student": student, "teacher": Dropped()}, [link], ["teacher"]).train(), X)
    student.still.eval()
    student.still.weight.requires_grad_(False)
    modes = [m.training for m in student.modules()]
    model.scheme.speak(batch())
    buffers = [b.clone() for b in student.buffers()]

    def as_before() -> None:
        assert [m.training for m in student.modules()] == modes
        assert [p.requires_grad for p in student.parameters()].count(False) == 1
        assert all(torch.equal(a, b) for a, b in zip(buffers, student.buffers(), strict=True))

    model.routing(X, torch.ones(6, 2))
    as_before()
    monkeypatch.setattr(model.routing.to_student[0], "forward", lambda f: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        model.routing(X, torch.ones(6, 2))
    as_before()


def test_a_decision_gets_the_gradient_of_both_ways() -> None:
    """d/da of (1 - a) s + a t is t - s."""
    s, t = torch.randn(2, 3, 4, 4), torch.randn(2, 3, 4, 4)
    a = torch.tensor([0.0, 1.0], requires_grad=True)
    out, weight = fused(s, t, a), torch.randn(2, 3, 4, 4)
    assert torch.equal(out[0], s[0])
    assert torch.equal(out[1], t[1])
    (out * weight).sum().backward()
    assert torch.allclose(a.grad, ((t - s) * weight).sum((1, 2, 3)), rtol=1e-4)  # type: ignore[arg-type]


def test_a_live_teacher_is_read_in_eval_mode() -> None:
    model = say(adaptive("at+kd", teacher="joint"), True)
    model(batch())  # its statistics move
    losses = model(batch())
    teacher = model.nets["teacher"]
    ce = nn.functional.cross_entropy(teacher.eval()(X)["logits"], batch().y, reduction="none")
    assert torch.allclose(losses["routing"], ce, atol=1e-6)
    total(losses).backward()
    assert TEACHER


@pytest.mark.parametrize("bridges", ["plain", "norm"])
def test_the_way_not_taken_costs_no_graph_and_changes_no_gradient(
    bridges: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(5)
    ways = torch.tensor([[1.0, 0, 1], [0, 0, 0], [0, 1, 1], [1, 1, 0], [0, 1, 0], [1, 0, 1]])
    found = []
    for sparse in (True, False):
        model = adaptive("at+kd", bridges=bridges)
        if not sparse:
            monkeypatch.setattr("potstill.schemes.routing.segment_of", lambda segment, u, taken: segment(u))
        a = ways.clone().requires_grad_()
        out = model.routing(X, a)
        nn.functional.cross_entropy(out, batch().y).backward()
        found.append([out.detach(), a.grad, *(p.grad for p in model.routing.parameters())])
    assert all(torch.allclose(one, other, rtol=1e-4, atol=1e-7) for one, other in zip(*found, strict=True))
    assert found[0][1].abs().min() > 0, "decisions get a gradient where they say no, too"
