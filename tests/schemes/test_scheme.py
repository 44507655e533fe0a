import copy

import pytest
import torch
from torch import nn

from potstill.errors import ModelError
from potstill.losses import AT, CE, KD, FitNet, Loss
from potstill.schemes import Link, Ramp, Scheme, offline, total
from potstill.types import Batch


class Small(nn.Module):
    def __init__(self, width: int, classes: int = 5) -> None:
        super().__init__()
        self.a = nn.Sequential(nn.Conv2d(3, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU())
        self.b = nn.Sequential(nn.Conv2d(width, 2 * width, 3, 2, 1), nn.BatchNorm2d(2 * width), nn.ReLU())
        self.fc = nn.Linear(2 * width, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.b(self.a(x)).mean((2, 3)))


def batch(n: int = 6, progress: float = 0.0) -> Batch:
    i = torch.arange(n)
    return Batch(torch.rand(n, 3, 8, 8), i % 5, i, torch.zeros(n, dtype=torch.long), None, progress)


def test_a_scheme_is_the_published_objective() -> None:
    torch.manual_seed(0)
    student, teacher, b = Small(4), Small(8), batch()
    scheme = offline(
        student, teacher, [Link(CE(), 0.1, teacher=None), Link(KD(4.0), 0.9), Link(AT(), 1e3, at=["a", "b"])]
    )
    losses = scheme(b)
    assert {k: v.shape for k, v in losses.items()} == {"ce": (6,), "kd": (6,), "at": (6,)}
    teacher.eval()
    z, t = copy.deepcopy(student)(b.x), teacher(b.x)
    expected = 0.1 * nn.functional.cross_entropy(z, b.y) + 0.9 * KD(4.0)(z, t).mean()
    torch.testing.assert_close(losses["ce"].mean() + losses["kd"].mean(), expected)
    total(losses).backward()
    assert all(p.grad is not None for p in student.parameters())
    assert all(p.grad is None for p in teacher.parameters())
    assert not teacher.training


def test_the_teachers_statistics_do_not_move() -> None:
    student, teacher = Small(4), Small(8)
    before = copy.deepcopy(teacher.state_dict())
    scheme = offline(student, teacher, [Link(KD())]).train()
    scheme(batch())
    assert student.training
    assert all(torch.equal(v, before[k]) for k, v in teacher.state_dict().items())


def test_the_state_holds_student_and_adapters_and_no_teacher() -> None:
    scheme = offline(Small(4), Small(8), [Link(KD()), Link(FitNet((4, 8, 8), (8, 8, 8)), 100, at="a")])
    keys = scheme.state_dict().keys()
    assert any("regressor" in k for k in keys)
    assert not any("teacher" in k for k in keys)
    assert {id(p) for p in scheme.parameters()} == {
        id(p)
        for p in (*scheme.nets["student"].parameters(), *scheme.links.parameters())  # type: ignore[attr-defined]
    }


def test_a_weight_may_be_a_schedule_of_progress() -> None:
    scheme = offline(Small(4), Small(8), [Link(KD(), Ramp(4, 1))]).eval()
    b = batch()
    early, late = scheme(b)["kd"], scheme(b._replace(progress=1.0))["kd"]
    torch.testing.assert_close(early, 4 * late)


def test_mutual_learning_is_the_same_class_with_other_arrows() -> None:
    nets = {"one": Small(4), "two": Small(6)}
    links = [Link(CE(), teacher=None, student=n, name=f"ce:{n}") for n in nets]
    links += [Link(KD(1.0), teacher=a, student=b, name=f"kd:{a}>{b}") for a, b in (("one", "two"), ("two", "one"))]
    losses = Scheme(nets, links)(batch())
    total({k: v for k, v in losses.items() if k == "kd:one>two"}).backward()
    assert nets["one"].fc.weight.grad is None, "a teacher that learns too gets no gradient from what it teaches"
    assert nets["two"].fc.weight.grad is not None


def test_refusals() -> None:
    s, t = Small(4), Small(8)
    with pytest.raises(ModelError, match="called 'kd'"):
        offline(s, t, [Link(KD(2.0)), Link(KD(4.0))])
    with pytest.raises(ModelError, match=r"names a net 'techer'. Did you mean 'teacher'"):
        offline(s, t, [Link(KD(), teacher="techer")])
    with pytest.raises(ModelError, match="no layer 'c'"):
        offline(s, t, [Link(AT(), at="c")])
    with pytest.raises(ModelError, match="shares parameters"):
        offline(s, s, [Link(KD())])
    with pytest.raises(ModelError, match="which is frozen"):
        Scheme({"student": s, "teacher": t}, [Link(KD(), student="teacher")], frozen=["teacher"])

    class Mean(Loss):
        def forward(self, s, t, batch=None):  # type: ignore[no-untyped-def]
            return (s - t).mean()

    with pytest.raises(ModelError, match="one number per sample"):
        offline(s, t, [Link(Mean())])(batch())


def test_a_net_that_no_link_reads_does_not_run() -> None:
    def fail(*args: object) -> None:
        raise AssertionError

    teacher = Small(8)
    teacher.register_forward_pre_hook(fail)
    assert list(offline(Small(4), teacher, [Link(CE(), teacher=None)])(batch())) == ["ce"]


def test_a_frozen_net_runs_before_those_that_keep_memory_for_their_backward() -> None:
    scheme, ran = offline(Small(4), Small(8), [Link(CE(), 1.0, teacher=None), Link(KD(), 1.0)]), list[str]()
    for name, net in scheme.nets.items():
        net.register_forward_hook(lambda *_, name=name: ran.append(name))
    scheme(batch())
    assert ran == ["teacher", "student"]
