"""A teacher made faster: the same answers, never slower, and the user's own net as it was."""

from __future__ import annotations

import copy
import time
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from potstill import teacher as module
from potstill.errors import MachineError
from potstill.models import resolve
from potstill.models.preprocess import Preprocess
from potstill.taps import Frozen, Tapped
from potstill.teacher import Swift, fold, has_bf16, replay, speed_up

from .test_folding import Branches, warm

X = torch.rand(8, 3, 32, 32, generator=torch.Generator().manual_seed(0))
SPOTS = ["layer1", "layer2.0.relu2@in", "fc@in"]


def plain(spots: list[str] = SPOTS) -> Tapped:
    torch.manual_seed(0)
    net = warm(resolve("zoo:resnet8x4", num_classes=10, in_channels=3).module)
    return Tapped(net, spots, Preprocess([0.5] * 3, [0.25] * 3), torch.arange(9, -1, -1)).eval()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """Says what each variant takes, by its name; the real clock would make tests depend on the machine's other work."""
    costs: dict[str, float] = {}

    def timed(nets: list[Tapped], x: Tensor, part: int, repeats: int) -> list[float]:
        return [costs[name_of(net)] for net in nets]

    monkeypatch.setattr(module, "_timed", timed)
    return costs


def name_of(net: Tapped) -> str:
    if not isinstance(net, Swift):
        return "plain"
    if net.quick is not None:
        return "compiled"
    folded = not any(isinstance(m, nn.BatchNorm2d) for m in net.modules())
    return "bf16" if net.dtype else "last" if net.last else "folded" if folded else "copy"


def same(a: dict[str, Tensor], b: dict[str, Tensor], bound: float = 1e-5) -> bool:
    return a.keys() == b.keys() and all((a[k] - b[k]).norm() <= bound * a[k].norm() for k in a)


def test_equal_says_the_same_at_every_spot_and_leaves_the_users_net_alone(clock: dict[str, float]) -> None:
    clock |= {"plain": 1.0, "folded": 0.9, "last": 0.7}
    given = plain()
    before = copy.deepcopy(given.net.state_dict())
    truth = given(X)
    sped = speed_up(given, X)
    assert sped.how == ["batch norms folded", "channels-last"]
    assert sped.seconds == {"plain": 1.0, "batch norms folded": 0.9, "channels-last": pytest.approx(0.7)}
    assert sped.ratio == pytest.approx(0.7)
    assert sped.net is not given
    assert not any(isinstance(m, nn.BatchNorm2d) for m in sped.net.modules())
    assert sped.net.net.conv1.weight.is_contiguous(memory_format=torch.channels_last)
    assert same(truth, sped.net(X))
    assert same({k: v[:3] for k, v in truth.items()}, sped.net(X[:3]))
    after = given.net.state_dict()
    assert all(torch.equal(before[k], after[k]) and before[k].stride() == after[k].stride() for k in before)
    assert all(torch.equal(truth[k], given(X)[k]) for k in truth)
    assert same(truth, Frozen(sped.net)(X))


def test_exact_is_the_net_itself() -> None:
    given = plain()
    sped = speed_up(given, X, precision="exact")
    assert sped.net is given
    assert sped.how == []


def test_what_is_no_faster_is_not_kept(clock: dict[str, float]) -> None:
    clock |= {"plain": 1.0, "folded": 1.02, "copy": 1.0, "last": 0.99}
    given = plain()
    sped = speed_up(given, X)
    assert sped.net is given
    assert [n.split(":")[0] for n in sped.notices] == ["batch norms folded", "channels-last"]
    clock |= {"last": 0.8}
    sped = speed_up(given, X)
    assert sped.how == ["channels-last"]
    assert any(isinstance(m, nn.BatchNorm2d) for m in sped.net.modules())


def test_a_net_that_fx_cannot_trace_is_still_channels_last(clock: dict[str, float]) -> None:
    clock |= {"plain": 1.0, "last": 0.8}
    torch.manual_seed(0)
    given = Tapped(warm(Branches()), ["deep"])
    sped = speed_up(given, X)
    assert sped.how == ["channels-last"]
    assert "cannot trace Branches" in sped.notices[0]
    assert same(given(X), sped.net(X))


def test_a_net_without_maps_has_nothing_to_do() -> None:
    given = Tapped(nn.Sequential(nn.Flatten(), nn.Linear(3072, 5)))
    sped = speed_up(given, X)
    assert sped.net is given
    assert sped.how == sped.notices == []


def test_what_turns_rounding_into_more_is_refused(clock: dict[str, float], monkeypatch: pytest.MonkeyPatch) -> None:
    clock |= {"plain": 1.0, "folded": 0.5, "last": 0.5, "copy": 1.0}

    def wrong(tapped: Tapped) -> str | None:
        why = fold(tapped)
        tapped.net.conv1.bias.data += 0.01
        return why

    monkeypatch.setattr(module, "fold", wrong)
    sped = speed_up(plain(), X)
    assert "folded" not in " ".join(sped.how)
    assert "allowed are 1e-04" in sped.notices[0]


def test_bf16_is_used_within_a_bound_only(clock: dict[str, float], monkeypatch: pytest.MonkeyPatch) -> None:
    clock |= {"plain": 1.0, "folded": 0.9, "last": 0.8, "bf16": 0.3}
    monkeypatch.setattr(module, "has_bf16", lambda device: True)
    given = plain()
    truth = given(X)
    sped = speed_up(given, X, precision="fast", bound=1e-2)
    assert sped.how[-1] == "bf16"
    said = sped.net(X)
    assert all(v.dtype == torch.float32 for v in said.values())
    assert same(truth, said, 3e-2)
    assert not same(truth, said)
    sped = speed_up(given, X, precision="fast", bound=1e-12)
    assert sped.how[-1] == "channels-last"
    assert "KL(T=4)" in sped.notices[-1]
    assert "bf16" not in speed_up(given, X).how
    monkeypatch.undo()
    assert has_bf16(torch.device("meta")) is False


def test_compiled_where_the_run_is_long_enough(clock: dict[str, float]) -> None:
    clock |= {"plain": 1.0, "folded": 0.9, "last": 0.8, "compiled": 0.5}
    given = plain()
    short = speed_up(given, X, forwards=320, backend="aot_eager")  # 38 s in 29 layers, 15 % of 0.8 s saved each time
    assert "compiled" not in short.how
    assert "not compiled: 256 s" in short.notices[-1]
    long = speed_up(given, X, forwards=340, backend="aot_eager")
    assert long.how[-1] == "compiled"
    assert "saves 102 s of 272 s" in long.notices[-1]
    truth = given(X)
    with torch.no_grad():
        assert same(truth, long.net(X))
        assert same({k: v[:3] for k, v in truth.items()}, long.net(X[:3]))
        assert same(given(X.flip(0)), Frozen(long.net)(X.flip(0)))
    clock["compiled"] = 0.9
    assert speed_up(given, X, forwards=800, backend="aot_eager").how[-1] == "channels-last"


def test_a_second_teacher_that_is_heard_elsewhere_is_compiled_anew() -> None:
    x = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        for spots in ([], ["fc@in"], SPOTS[:1]):
            teacher = plain(spots).eval()
            assert same(replay(teacher, ["compiled"], x, backend="eager")(x), teacher(x))


def test_a_choice_is_made_again_without_measuring(clock: dict[str, float], monkeypatch: pytest.MonkeyPatch) -> None:
    clock |= {"plain": 1.0, "folded": 0.9, "last": 0.8, "bf16": 0.5, "compiled": 0.3}
    monkeypatch.setattr(module, "has_bf16", lambda device: True)
    sped = speed_up(plain(), X, precision="fast", forwards=10_000, bound=1e-2, backend="aot_eager")
    assert sped.how == ["batch norms folded", "channels-last", "bf16", "compiled"]
    assert 0 < sped.kl < 1e-2
    clock.clear()  # whoever measures now fails
    again = replay(plain(), sped.how, X, "aot_eager")
    with torch.no_grad():
        said = sped.net(X)
        assert all(torch.equal(v, said[k]) for k, v in again(X).items())
        assert not same(said, replay(plain(), sped.how[:2], X)(X))
    given = plain()
    assert replay(given, [], X) is given
    with pytest.raises(MachineError, match="no batch norm follows"):
        replay(Tapped(nn.Sequential(nn.Flatten(), nn.Linear(3072, 5))), ["batch norms folded"], X)


def test_inside_autocast_the_plain_net_is_what_that_makes_of_it(clock: dict[str, float]) -> None:
    clock |= {"plain": 1.0, "bf16": 0.9}
    given = plain()
    truth = given(X)
    with torch.autocast("cpu", torch.bfloat16):
        sped = speed_up(given, X, bound=1e-2)
        said = sped.net(X)
    assert sped.how[0] == "batch norms folded"
    assert sped.net.dtype == torch.bfloat16  # type: ignore[attr-defined]
    assert all(v.dtype == torch.float32 for v in said.values())
    assert same(truth, said, 3e-2)
    clock |= {"folded": 0.9, "last": 0.9}
    sped = speed_up(given, X)
    with torch.autocast("cpu", torch.bfloat16):
        assert same(truth, sped.net(X)), "a float32 variant stays one"


def test_a_compiler_that_fails_is_said(clock: dict[str, float]) -> None:
    clock |= {"plain": 1.0, "folded": 0.9, "last": 0.8, "compiled": 0.5}

    sped = speed_up(plain([]), X, forwards=10_000, backend="no-such-backend")
    assert sped.how[-1] == "channels-last"
    assert any(n.startswith("compiled: ") for n in sped.notices)


def test_timing_is_interleaved_and_of_the_whole_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[tuple[str, int]] = []

    def net(name: str, cost: float) -> Any:
        def run(x: Tensor) -> None:
            order.append((name, len(x)))
            end = time.process_time() + cost
            while time.process_time() < end:
                pass

        return run

    slow, fast = module._timed([net("slow", 0.02), net("fast", 0.005)], X, 4, 3)
    assert order == [("slow", 4), ("fast", 4)] * 4
    assert slow == pytest.approx(0.04, rel=0.3)
    assert fast == pytest.approx(0.01, rel=0.5)
