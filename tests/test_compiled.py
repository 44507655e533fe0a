"""Every compiled path equals eager in value and gradient, or is not taken."""

from __future__ import annotations

import copy
import functools
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import potstill
from potstill.compiled import Compiled, compile_nets
from potstill.errors import InterruptedRun, MachineError
from potstill.losses import CE, KD, FitNet
from potstill.models import resolve
from potstill.models.mobilenetv2 import InvertedResidual, conv_bn
from potstill.proof import unlike
from potstill.schemes import Link, Scheme, offline, total
from potstill.taps import Frozen, Tapped
from potstill.trial import Stop
from potstill.types import Batch
from tests.engine_case import Digits, net


class Layer(nn.Module):
    """A layer of a transformer. (torch's own takes a fused kernel as a teacher, which fails compiled under autocast: that stays
    eager.)"""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in "ab")
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 32), nn.GELU(), nn.Dropout(0.1), nn.Linear(32, width))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(self.norms[0](x)).unflatten(-1, (3, 2, -1)).permute(2, 0, 3, 1, 4)
        x = x + self.out(nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        y: Tensor = x + self.mlp(self.norms[1](x))
        return y


class Tokens(nn.Module):
    """A small transformer: patches of 8 x 8, two layers with dropout, the mean of the tokens."""

    def __init__(self, classes: int = 10) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, 16, 8, stride=8)
        self.blocks = nn.ModuleList(Layer() for _ in "ab")
        self.head = nn.Linear(16, classes)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.patch(x).flatten(2).transpose(1, 2)
        for block in self.blocks:
            tokens = block(tokens)
        logits: Tensor = self.head(tokens.mean(1))
        return logits


def mobile() -> nn.Module:
    """The blocks of MobileNetV2, three of them: all its 17 take minutes to compile."""
    stem = nn.Sequential(*conv_bn(3, 8, 3, 2), nn.ReLU())
    blocks = nn.Sequential(*(InvertedResidual(a, b, s, 6) for a, b, s in ((8, 12, 2), (12, 12, 1), (12, 16, 1))))
    return nn.Sequential(stem, blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10))


STUDENTS = {
    "residual": (lambda: resolve("zoo:resnet8", num_classes=10).module, ("layer2", "layer3.0.relu1@in")),
    "mobile": (mobile, ("1", "1.1.conv.5@in")),
    "transformer": (Tokens, ("blocks.0", "head@in")),
}


def pictures(n: int = 8, size: int = 32) -> Tensor:
    return torch.rand(n, 3, size, size, generator=torch.Generator().manual_seed(0))


def batch(n: int = 8) -> Batch:
    ids = torch.arange(n)
    return Batch(pictures(n), ids % 10, ids, ids)


def backend(graphs: list[Any], wrong: float = 1.0) -> Any:
    """Eager code under AOTAutograd, which counts its graphs, and whose backward may be wrong as compilers have been."""
    from functorch.compile import make_boxed_func
    from torch._dynamo.backends.common import aot_autograd

    def forward(graph: Any, example: Any) -> Any:
        graphs.append(graph)
        return make_boxed_func(graph.forward)

    def backward(graph: Any, example: Any) -> Any:
        return make_boxed_func(lambda *args: [g if g is None else g * wrong for g in graph.forward(*args)])

    return aot_autograd(fw_compiler=forward, bw_compiler=backward)


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["float32", "bf16"])
@pytest.mark.parametrize("kind", STUDENTS)
def test_a_compiled_net_says_the_same_and_has_the_same_gradient(kind: str, precision: str) -> None:
    torch.manual_seed(0)
    made, spots = STUDENTS[kind]
    plain, x = Tapped(made(), spots), pictures()
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
        assert unlike(plain, Compiled(plain, x.shape), x) is None
        assert unlike(plain.eval(), Compiled(plain, x.shape), x, learns=False) is None, "as a teacher"


@pytest.mark.slow
@pytest.mark.parametrize("kind", STUDENTS)
def test_a_compiled_scheme_trains_as_the_eager_one(kind: str) -> None:
    torch.manual_seed(0)
    made, spots = STUDENTS[kind]
    shape = tuple(Tapped(made(), spots[:1])(pictures())[spots[0]].shape[1:])
    links = [Link(CE(), 0.1, teacher=None), Link(KD(), 0.9), Link(FitNet(shape, shape), at=spots[0])]
    eager = offline(made(), made(), links)
    compiled = copy.deepcopy(eager)
    lines, decided = compile_nets([compiled], pictures())
    assert all("equal to eager" in line for line in lines), lines
    assert len(lines) == 2
    assert all(decided.values())
    for n in (8, 8, 5):  # the last, smaller batch runs as it is
        values = []
        for scheme in (eager, compiled):
            torch.manual_seed(n)  # of dropout
            scheme.zero_grad()
            loss = total(scheme(batch(n)))
            loss.backward()
            values.append((loss.detach(), torch.cat([p.grad.flatten() for p in scheme.parameters()])))
        torch.testing.assert_close(values[0][0], values[1][0], rtol=1e-4, atol=1e-5)
        assert (values[0][1] - values[1][1]).norm() < 5e-3 * values[0][1].norm()
    assert compiled.state_dict().keys() == eager.state_dict().keys()
    for a, b in zip(compiled.state_dict().values(), eager.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-5)


def scheme() -> Scheme:
    torch.manual_seed(0)
    links = [Link(CE(), 0.5, teacher=None), Link(KD(), 0.5), Link(FitNet((4, 8, 8), (8, 8, 8)), at="0")]
    return offline(net(4), net(8), links)


def test_spots_are_heard_and_a_step_is_compiled_once() -> None:
    eager, graphs = scheme(), []
    compiled = copy.deepcopy(eager)
    compile_nets([compiled], next(Digits().epoch(0)).x, backend=backend(graphs))
    assert isinstance(compiled.nets["student"], Compiled)
    assert isinstance(compiled.nets["teacher"], Frozen)
    assert isinstance(compiled.nets["teacher"].net, Compiled)
    for i, b in enumerate([*Digits().epoch(0), next(Digits(size=20).epoch(0))]):
        said = []
        for each in (eager, compiled):
            torch.manual_seed(i)
            each.zero_grad()
            losses = each(b)
            total(losses).backward()
            said.append((losses, [p.grad for p in each.parameters()]))
        torch.testing.assert_close(*said)
    assert len(graphs) == 2, "one of the student, one of the teacher"
    torch.testing.assert_close(eager.state_dict(), compiled.state_dict())
    assert not any(m._forward_hooks for m in compiled.modules()), "the nets are left as they were"
    twin = copy.deepcopy(compiled)
    with torch.no_grad():
        next(twin.nets["student"].parameters()).zero_()
    torch.manual_seed(0)
    assert not torch.equal(twin.nets["student"](b.x)["0"], compiled.nets["student"](b.x)["0"]), "a copy has its own net"


def test_two_ways_of_listening_to_one_net() -> None:
    shared, x = net(4, dropout=0.0), next(Digits().epoch(0)).x
    a, b = (Compiled(Tapped(shared, [spot]), x.shape, backend([])) for spot in ("0", "1"))
    for each in (a, b, a):
        torch.testing.assert_close(each(x), Tapped(shared, each.spots)(x))


def test_a_wrong_gradient_is_not_used() -> None:
    x, wrong = next(Digits().epoch(0)).x, scheme()
    before = copy.deepcopy(wrong.state_dict())
    random = torch.get_rng_state()
    lines, decided = compile_nets([wrong], x, backend=backend([], wrong=1.1))
    assert "the gradient of 'net.0.0.weight' is 1.0e-01 off" in lines[0]
    assert decided == {"student at 0": False, "teacher at 0": True}, "the teacher has no gradient"
    assert type(wrong.nets["student"]) is Tapped
    torch.testing.assert_close(wrong.state_dict(), before, rtol=0, atol=0)
    assert torch.equal(torch.get_rng_state(), random)


def test_what_the_compiler_cannot_do_stays_as_it_is() -> None:
    def broken(graph: Any, example: Any) -> Any:
        raise RuntimeError("no compiler here")

    made = scheme()
    lines, decided = compile_nets([made], next(Digits().epoch(0)).x, backend=broken)
    assert all("as it is: compiled, BackendCompilerFailed" in line for line in lines)
    assert not any(decided.values())
    with pytest.raises(MachineError, match="started with compiled nets"):
        compile_nets([scheme()], next(Digits().epoch(0)).x, decided={"student at 0": True}, backend=broken)


def test_only_where_the_run_is_long_enough_and_it_is_faster(monkeypatch: pytest.MonkeyPatch) -> None:
    x = next(Digits().epoch(0)).x
    costs = {Tapped: 1.0, Compiled: 0.8}
    monkeypatch.setattr("potstill.compiled._timed", lambda nets, *rest: [costs[type(n)] for n in nets])
    lines, decided = compile_nets([scheme()], x, forwards=100, backend=backend([]))
    assert "would not pay" in lines[0]
    assert not any(decided.values())
    lines, decided = compile_nets([scheme()], x, forwards=100_000, backend=backend([]))
    assert "0.80 of its time, equal to eager" in lines[0]
    assert all(decided.values())
    costs[Compiled] = 0.99
    lines, decided = compile_nets([scheme()], x, forwards=100_000, backend=backend([]))
    assert "no faster" in lines[0]
    assert not any(decided.values())
    again = scheme()
    compile_nets([again], x, decided={"student at 0": True, "teacher at 0": False}, backend=backend([]))
    assert isinstance(again.nets["student"], Compiled)
    assert type(again.nets["teacher"].net) is Tapped


@pytest.mark.slow
def test_a_compiled_run_goes_on_as_it_was(teacher_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("potstill.pace.compile_nets", functools.partial(compile_nets, backend=backend([])))
    settings = {"method": "at+kd", "epochs": 3, "control": False, "track": [], "quiet": True, "out": str(tmp_path)}
    data, student = {"source": "digits", "limit": 300}, "zoo:cnn(widths=(4, 8))"
    used: list[Compiled] = []
    forward = Compiled.forward
    monkeypatch.setattr(Compiled, "forward", lambda self, x: used.append(self) or forward(self, x))

    def distil(name: str, **more: Any) -> Any:
        return potstill.distill(str(teacher_run), student, data, name=name, compile=True, **settings, **more)

    whole = distil("whole")
    assert json.loads((whole.path / "student-s0" / "compiled.json").read_text()).popitem()[1] is True
    assert {type(each.net) for each in used} == {type(potstill.load(whole.path))}, "student and teacher"
    calls = 0

    def after_some(self: Stop) -> bool:
        nonlocal calls
        calls += 1
        return calls == 8

    with monkeypatch.context() as patch:
        patch.setattr(Stop, "__call__", after_some)
        with pytest.raises(InterruptedRun):
            distil("torn")
    used.clear()
    torn = potstill.resume(tmp_path / "torn", quiet=True)
    assert used
    torch.testing.assert_close(torn.student.state_dict(), whole.student.state_dict(), rtol=0, atol=0)
    eager = potstill.distill(str(teacher_run), student, data, name="eager", **settings)
    losses = [
        json.loads((run.path / "student-s0" / "metrics.jsonl").read_text().splitlines()[-1]) for run in (whole, eager)
    ]
    assert losses[0]["train"]["loss"] == pytest.approx(losses[1]["train"]["loss"], rel=1e-3)
