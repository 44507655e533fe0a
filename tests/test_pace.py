"""The live teacher of a run at its own speed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import potstill
from potstill import teacher as module
from potstill.errors import InterruptedRun, MachineError
from potstill.taps import Frozen
from potstill.teacher import Swift
from potstill.trial import Stop

FAST = {"plain": 1.0, "folded": 0.5, "last": 0.3, "bf16": 0.2}


def distil(teacher: Path, out: Path, name: str, speed: str = "equal", **settings: Any) -> Any:
    settings = {"epochs": 6, "control": False, "track": [], "quiet": True, **settings}
    return potstill.distill(
        {"model": str(teacher), "speed": speed},
        "zoo:cnn(widths=(4, 8))",
        method="at+kd",
        out=str(out),
        name=name,
        **settings,
    )


def first_loss(path: Path) -> float:
    return float(json.loads((path / "student-s0" / "metrics.jsonl").read_text().splitlines()[0])["train"]["loss"])


def weights(path: Path) -> dict[str, torch.Tensor]:
    return load_file(path / "student.safetensors")


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """What a pass of each variant takes, by its name."""
    costs = dict(FAST)

    def name_of(net: Any) -> str:
        return ("bf16" if net.dtype else "last" if net.last else "folded") if isinstance(net, Swift) else "plain"

    monkeypatch.setattr(module, "_timed", lambda nets, *rest: [costs[name_of(net)] for net in nets])
    monkeypatch.setattr(module, "has_bf16", lambda device: True)
    return costs


@pytest.fixture
def taught(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The nets that taught, in order."""
    nets: list[Any] = []
    forward = Frozen.forward

    def noted(self: Frozen, x: Any) -> Any:
        nets.append(self.net)
        return forward(self, x)

    monkeypatch.setattr(Frozen, "forward", noted)
    return nets


def test_by_default_the_teacher_is_brought_to_channels_last(
    teacher_run: Path, tmp_path: Path, taught: list[Any]
) -> None:
    run = distil(teacher_run, tmp_path, "x", "auto", epochs=1)
    assert potstill.config.schema.TeacherConfig(model="x").speed == "auto"
    assert run.facts["speed"] == []
    assert not isinstance(taught[-1], Swift)
    maps = [p for p in taught[-1].parameters() if p.dim() == 4 and p.shape[1] > 1]
    assert maps
    assert all(p.is_contiguous(memory_format=torch.channels_last) for p in maps)


def test_exact_says_what_the_users_net_says(teacher_run: Path, tmp_path: Path, taught: list[Any]) -> None:
    run = distil(teacher_run, tmp_path, "x", "exact", epochs=1)
    assert run.facts["speed"] == []
    assert not any("speed" in line for line in run.facts["preflight"])
    net = taught[-1]
    assert not isinstance(net, Swift)
    loaded = potstill.models.load_student(teacher_run)
    x = torch.rand(64, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(net(x)["logits"], loaded.module.eval()(loaded.preprocess(x)))
    assert all(p.is_contiguous() for p in net.parameters())


def test_a_run_uses_what_was_chosen_and_says_so(
    teacher_run: Path, tmp_path: Path, clock: dict[str, float], taught: list[Any]
) -> None:
    run = distil(teacher_run, tmp_path, "equal", seeds=2)
    (row,) = run.facts["speed"]
    assert row["how"] == ["batch norms folded", "channels-last"]
    assert row["ratio"] == pytest.approx(0.3)
    assert row["kl"] < 1e-9
    line = next(line for line in run.facts["preflight"] if line.startswith("speed"))
    assert "teacher equal: batch norms folded, channels-last: 0.30 of its time (1e+03 -> 300 ms a batch), KL" in line
    steps = run.facts["budget"]["steps"]
    assert sum(isinstance(net, Swift) for net in taught[-2 * steps :]) == 2 * steps, "both seeds, all steps"
    assert len({id(net) for net in taught[-2 * steps :]}) == 1, "made once"
    fast = distil(teacher_run, tmp_path, "fast", "fast")
    assert fast.facts["speed"][0]["how"][-1] == "bf16"
    plain = distil(teacher_run, tmp_path, "plain", "exact")
    a, b, c = (first_loss(each.path) for each in (run, plain, fast))
    assert a == pytest.approx(b, rel=1e-4)
    assert a == pytest.approx(c, rel=2e-2)
    assert len({a, b, c}) == 3


def test_what_a_short_run_is_not_worth(teacher_run: Path, tmp_path: Path) -> None:
    run = distil(teacher_run, tmp_path, "short", epochs=1)
    assert any("too few" in line for line in run.facts["preflight"])
    assert run.facts["speed"][0]["how"] == []


def test_a_resumed_run_does_not_choose_anew(
    teacher_run: Path, tmp_path: Path, clock: dict[str, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = distil(teacher_run, tmp_path, "whole")
    calls = 0

    def twice_an_epoch(self: Stop) -> bool:
        nonlocal calls
        calls += 1
        return calls == 40

    with monkeypatch.context() as patch:
        patch.setattr(Stop, "__call__", twice_an_epoch)
        with pytest.raises(InterruptedRun):
            distil(teacher_run, tmp_path, "torn")
    clock |= {"folded": 2.0, "last": 2.0}  # today the plain net would be the fastest
    torn = tmp_path / "torn"
    potstill.resume(torn, quiet=True)
    assert json.loads((torn / "run.json").read_text())["speed"][0]["how"] == ["batch norms folded", "channels-last"]
    a, b = weights(whole.path), weights(torn)
    assert all(torch.equal(a[k], b[k]) for k in a)


def test_where_the_choice_is_not_possible_a_run_does_not_go_on(
    teacher_run: Path, tmp_path: Path, clock: dict[str, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Stop, "__call__", lambda self: True)
    with pytest.raises(InterruptedRun):
        distil(teacher_run, tmp_path, "torn")
    monkeypatch.setattr(module, "fold", lambda net: "torch.fx cannot trace it")
    with pytest.raises(MachineError, match="cannot trace"):
        potstill.resume(tmp_path / "torn", quiet=True)
