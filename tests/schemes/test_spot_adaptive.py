"""What holds for any method: the truths at both ends, who gets which gradient, rules, quirks, state."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning_fabric import Fabric
from torch import Tensor

from potstill.engine import Stage, fit
from potstill.optim import make_optimizer, make_scheduler
from potstill.schemes import Ramp, total
from potstill.schemes.policy import probability
from potstill.schemes.spot_adaptive import two_speeds
from tests.schemes.spot_case import STUDENT, B, adaptive, batch, plain, say, slopes, zoo

STAGES = ["features.stage1", "features.stage2"]


def student_of(all_slopes: dict[str, Tensor]) -> dict[str, Tensor]:
    return {n.removeprefix("scheme."): g for n, g in all_slopes.items() if ".student." in n or "links" in n}


@pytest.mark.parametrize("method", ["at+kd", "vid+kd", "crd+kd", "fitnet+kd", "reviewkd+kd"])
def test_always_the_teacher_is_the_plain_scheme_exactly(method: str) -> None:
    reference = plain(method)
    torch.manual_seed(9)
    expected = reference(batch())
    want = slopes(reference, expected)
    for rule in ("always", "adaptive"):
        model = adaptive(method, rule=rule)
        if rule == "adaptive":
            say(model, True)
        if method == "crd+kd" and rule == "adaptive":  # it draws negatives: after the same noise
            reference = plain(method)
            torch.manual_seed(9)
            torch.empty(B, len(model.spots), 2).exponential_()
            expected = reference(batch())
            want = slopes(reference, expected)
        torch.manual_seed(9)
        got = model(batch())
        assert list(got) == [*expected, *(["routing"] if rule == "adaptive" else [])]
        assert all(torch.equal(got[name], expected[name]) for name in expected)
        found = student_of(slopes(model, {name: got[name] for name in expected}))
        assert all(torch.equal(found[n], want[n]) for n in found)
        assert set(found) == set(want)


@pytest.mark.parametrize("rule", ["none", "adaptive"])
def test_never_the_teacher_is_cross_entropy_alone(rule: str) -> None:
    reference = plain("at+kd")
    ce = reference(batch())["ce"]
    want = slopes(reference, {"ce": ce})
    model = adaptive("at+kd", rule=rule)
    if rule == "adaptive":
        say(model, False)
    got = model(batch())
    assert torch.equal(got["ce"], ce)
    assert not got["at"].any()
    assert not got["kd"].any()
    found = student_of(slopes(model, {n: v for n, v in got.items() if n != "routing"}))
    assert all(torch.equal(found[n], want[n]) for n in found)


@pytest.mark.parametrize("method", ["at+kd", "vid+kd", "crd+kd", "rkd+kd"])
def test_who_gets_which_gradient_and_one_backward_is_two(method: str) -> None:
    model = adaptive(method)
    losses = model(batch())
    routing = slopes(model, {"routing": losses["routing"]})
    student = slopes(model, {n: v for n, v in losses.items() if n != "routing"})
    own = ("policy.", "routing.")
    assert any(g.any() for n, g in routing.items() if n.startswith("policy."))
    assert any(g.any() for n, g in routing.items() if n.startswith("routing."))
    assert not any(g.any() for n, g in routing.items() if not n.startswith(own)), (
        "routing teaches policy and bridges only"
    )
    assert not any(g.any() for n, g in student.items() if n.startswith(own)), "the student's losses never do"
    both = slopes(model, losses)
    assert all(torch.equal(both[n], routing[n] + student[n]) for n in both)
    assert all(p.grad is None for p in model.nets["teacher"].net.parameters())
    assert all(p.requires_grad for p in model.parameters())
    assert all(p.requires_grad for p in model.nets["teacher"].net.parameters()), "left as it was"


def test_each_stage_has_a_decision_of_its_own() -> None:
    model = say(adaptive("at+kd"), True, False, True)
    assert model.names == [*STAGES, "logits"]
    assert model.per_spot == {"at": True}
    got = model(batch())
    said = model.scheme.speak(batch())
    at = model.links[1]
    expected = at.weight * at.loss([said["student"][STAGES[0]]], [said["teacher"][STAGES[0]].detach()])
    assert torch.equal(got["at"], expected)
    assert got["kd"].any()


def test_a_loss_that_is_no_sum_over_its_spots_is_decided_by_its_last() -> None:
    for last in (True, False):
        model = say(adaptive("reviewkd+kd"), False, False, last, True)
        assert model.names == [*STAGES, "fc@in", "logits"]
        assert model.per_spot == {"reviewkd": False}
        assert bool(model(batch())["reviewkd"].all()) == last


def test_decisions_are_made_sample_by_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    model = adaptive("fitnet+kd")
    a = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0], [0.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    monkeypatch.setattr(model, "decide", lambda said, batch: (a, a))
    whole, got = plain("fitnet+kd")(batch()), model(batch())
    assert torch.equal(got["fitnet"], torch.where(a[:, 0] > 0, whole["fitnet"], 0.0))
    assert torch.equal(got["kd"], torch.where(a[:, 1] > 0, whole["kd"], 0.0))
    anti = adaptive("fitnet+kd", rule="anti")
    monkeypatch.setattr(anti, "decide", lambda said, batch: (a, a))
    got = anti(batch())
    assert torch.equal(got["fitnet"], torch.where(a[:, 0] > 0, 0.0, whole["fitnet"]))
    assert torch.equal(got["ce"], whole["ce"]), "labels teach always"
    assert anti.decisions()["logits"] == pytest.approx(0.5)


def test_random_distils_by_its_share_and_routes_nothing() -> None:
    model = adaptive("at+kd", rule="random", share=0.3)
    assert model.policy is None
    assert model.own_parameters() == []
    torch.manual_seed(0)
    taught = torch.cat([model.decide({}, batch())[0] for _ in range(400)])
    assert (taught.mean(0) - 0.3).abs().max() < 0.04  # 4 standard errors
    model(batch())
    assert model.decisions()["logits"] == pytest.approx(0.3, abs=1e-5)
    assert "routing" not in model(batch())


def test_without_gradient_only_weight_decay_moves_the_policy() -> None:
    model = adaptive("at+kd", rule="no_gradient", initial_bias=3.0)
    assert model.policy is not None
    optimizer = two_speeds(make_optimizer("sgd", lr=0.1, weight_decay=0.0), weight_decay=0.5)(model)
    before = [p.detach().clone() for p in model.policy.parameters()]
    bridge = model.routing.to_teacher[0].map.map.weight.detach().clone()  # type: ignore[union-attr,index]
    total(model(batch())).backward()
    optimizer.step()
    for p, old in zip(model.policy.parameters(), before, strict=True):
        assert not p.grad.any()  # type: ignore[union-attr]
        assert torch.allclose(p, old * (1 - 0.05 * 0.5)), "decay alone"
    assert not torch.equal(model.routing.to_teacher[0].map.map.weight, bridge * (1 - 0.05 * 0.5)), "bridges learn"  # type: ignore[union-attr,index]


def test_the_policys_chances_are_exact_and_start_anew_when_read() -> None:
    model = adaptive("at+kd").eval()
    ids, chances = model.chances([batch(4), batch(2)])
    assert ids.tolist() == [0, 1, 2, 3, 0, 1]
    assert chances.shape == (6, 3)
    assert torch.equal(chances[:2], chances[4:])
    assert not model.training
    model(batch(4))
    model(batch(2))
    assert list(model.decisions().values()) == pytest.approx(chances.mean(0).tolist(), abs=1e-6)
    assert model.decisions() == dict.fromkeys(model.names, 0.0)
    said = model.scheme.speak(batch(4))
    logits = model.policy(said["teacher"]["fc@in"], said["student"]["fc@in"])  # type: ignore[misc]
    assert torch.allclose(chances[:4], probability(logits))


def test_temperature_fades_and_scales_the_policys_gradient_alone() -> None:
    model = adaptive("at+kd")
    assert model.options.temperature == Ramp(5.0, 1.0)
    sizes = []
    for progress in (0.0, 1.0):
        torch.manual_seed(0)
        g = slopes(model, {"routing": model(batch(progress=progress))["routing"]})
        sizes.append(g["policy.net.weight"].norm().item())
    assert 1.5 < sizes[1] / sizes[0] < 6


def test_gamma_and_hinge_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    a = torch.tensor([[1.0, 0.0]] * 5 + [[1.0, 1.0]])
    routed: dict[str, Tensor] = {}
    for name, options in {
        "plain": {},
        "gamma": {"gamma": 3.0},
        "hinge": {"hinge": True},
        "weight": {"weight": 2},
    }.items():
        model = adaptive("fitnet+kd", **options)
        monkeypatch.setattr(model, "decide", lambda said, batch: (a, a))
        routed[name] = model(batch())["routing"]
        ce = model(batch())["ce"].mean()
    factor = 3.0 if routed["plain"].mean() > ce else 1 / 3
    assert torch.allclose(routed["gamma"], routed["plain"] * factor)
    assert torch.allclose(routed["hinge"], routed["plain"] + B / 2 - 1)
    assert torch.allclose(routed["weight"], routed["plain"] * 2)


def test_the_authors_preset_turns_all_quirks_on() -> None:
    model = adaptive("rkd+kd", authors=True, gamma=1.5)
    o = model.options
    assert (o.temperature, o.initial_bias, o.bridges, o.hinge, o.relation) == (5.0, 10.0, "norm+relu", True, "subset")
    assert o.gamma == 1.5, "what is given wins"
    assert all(p > 0.99 for p in (model(batch()), model.decisions())[1].values())


@pytest.mark.parametrize("method", ["rkd", "sp", "pkt", "cc"])
def test_a_relational_loss_on_the_chosen_samples_alone(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for n in (0, 1, 2, 4):
        model = adaptive(f"{method}+kd", relation="subset")
        assert model.weighed[method].relational
        assert not model.weighed["kd"].relational
        a = torch.zeros(B, 2)
        a[1 : 1 + n] = 1
        monkeypatch.setattr(model, "decide", lambda said, batch, a=a: (a, a))
        losses = model(batch())
        total(losses).backward()
        assert all(v.isfinite().all() for v in losses.values())
        if n < 2:
            assert not losses[method].any()
            continue
        link, said = model.links[1], plain(f"{method}+kd").speak(batch())
        few = slice(1, 1 + n)
        s, t = said["student"][link.at_s[0]][few], said["teacher"][link.at_t[0]][few]
        alone = link.weight * link.loss(s, t, batch()).mean()
        assert torch.allclose(losses[method].mean(), alone * n / B, rtol=1e-4)
    masked = adaptive(f"{method}+kd")
    assert not masked.weighed[method].relational


def test_masked_and_subset_are_one_for_losses_of_single_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    a = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0], [0.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    got = []
    for relation in ("masked", "subset"):
        model = adaptive("ickd+kd", relation=relation)
        monkeypatch.setattr(model, "decide", lambda said, batch: (a, a))
        got.append(model(batch())["ickd"])
    assert torch.equal(*got)


@pytest.mark.parametrize("teacher", ["joint", "scratch"])
def test_a_teacher_that_learns_along(teacher: str) -> None:
    model = adaptive("at+kd", teacher=teacher)
    before = [p.detach().clone() for p in plain("at+kd").nets["teacher"].net.parameters()]
    now = list(model.nets["teacher"].parameters())
    assert all(torch.equal(a, b) for a, b in zip(now, before, strict=True)) == (teacher == "joint")
    losses = model(batch())
    assert list(losses) == ["ce", "at", "kd", "teacher_ce", "routing"]
    routing = slopes(model, {"routing": losses["routing"]})
    assert not any(g.any() for n, g in routing.items() if ".teacher." in n)
    rest = slopes(model, {"teacher_ce": losses["teacher_ce"]})
    assert all(g.any() for n, g in rest.items() if n.endswith("fc.weight") and ".teacher." in n)
    assert set(map(id, model.nets["teacher"].parameters())) <= set(map(id, model.scheme.trains))
    assert any("teacher" in k for k in model.state_dict())


def test_its_group_learns_at_half_the_rate_and_keeps_that() -> None:
    model = adaptive("vid+kd")
    optimizer = two_speeds(make_optimizer("sgd", lr=0.05, momentum=0.9, weight_decay=5e-4))(model)
    rest, own = optimizer.param_groups
    assert (own["lr"], own["weight_decay"], rest["weight_decay"]) == (0.025, 1e-3, 5e-4)
    assert {id(p) for p in own["params"]} == {id(p) for p in model.own_parameters()}
    everyone = [p for g in optimizer.param_groups for p in g["params"]]
    assert {id(p) for p in everyone} == {id(p) for p in model.parameters()}
    assert len(everyone) == len([*model.parameters()])
    for name, arguments in {"multistep": {"milestones": (1, 2)}, "cosine": {"eta_min": 0.01}, "linear": {}}.items():
        scheduler, _ = make_scheduler(name, 3, warmup=0.5, **arguments)(optimizer, 4)  # type: ignore[misc,arg-type]
        for _ in range(10):
            optimizer.step()
            scheduler.step()
            assert own["lr"] == pytest.approx(rest["lr"] / 2)
    reference = plain("at+kd")
    assert len(two_speeds(make_optimizer("sgd", lr=0.1))(reference).param_groups) == 1


class Stream:
    def __len__(self) -> int:
        return 3

    def epoch(self, epoch: int, start: int = 0) -> Any:
        for i in range(start, 3):
            b = batch(B - i % 2)
            yield b._replace(ids=b.ids + epoch)


def stage(epochs: int = 2) -> Stage:
    model = adaptive("crd+at+kd")
    return Stage(
        "distil",
        model,
        Stream(),
        epochs,
        two_speeds(make_optimizer("sgd", lr=0.05, momentum=0.9)),
        make_scheduler("cosine", epochs),
    )


def test_training_resumes_exactly_and_the_student_is_plain(tmp_path: Path) -> None:
    class Stopped(Exception):
        pass

    def stop(s: Stage, at: Any, steps: int) -> None:
        if at.total_steps == 5:
            raise Stopped

    whole, cut, again = stage(), stage(), stage()
    torch.manual_seed(1)
    fit([whole], Fabric(accelerator="cpu", devices=1))
    torch.manual_seed(1)
    with pytest.raises(Stopped):
        fit([cut], Fabric(accelerator="cpu", devices=1), folder=tmp_path, save_steps=2, on_step=stop)
    fit([again], Fabric(accelerator="cpu", devices=1), folder=tmp_path)
    a, b = whole.scheme.state_dict(), again.scheme.state_dict()
    assert list(a) == list(b)
    assert all(torch.equal(a[k], b[k]) for k in a)
    assert {k.split(".")[0] for k in a} == {"scheme", "policy", "routing", "summed", "seen"}
    assert a["seen"] > 0
    assert not any("teacher" in k for k in a if not k.startswith("routing.to_teacher") and "links" not in k)
    student = whole.scheme.nets["student"].net  # type: ignore[union-attr]
    assert set(student.state_dict()) == set(zoo(STUDENT).state_dict())
    zoo(STUDENT).load_state_dict(student.state_dict())


def test_a_copy_routes_through_its_own_nets() -> None:
    model = adaptive("at+kd")
    twin = copy.deepcopy(model)
    with torch.no_grad():
        twin.nets["student"].net.fc.weight.add_(1.0)
        for m in (model, twin):
            say(m, False)
    assert torch.equal(model(batch())["ce"], adaptive("at+kd")(batch())["ce"])
    assert not torch.allclose(model(batch())["routing"], twin(batch())["routing"])


def test_one_sample_two_classes_and_missing_labels() -> None:
    model = adaptive("at+kd")
    for n in (1, 2):
        losses = model(batch(n))
        total(losses).backward()
        assert all(v.shape == (n,) and v.isfinite().all() for v in losses.values())
    losses = model(batch()._replace(y=torch.full((B,), -1)))
    assert not losses["routing"].any()
    mixed = torch.full((B, 5), 0.2)
    assert model(batch()._replace(targets=mixed))["routing"].isfinite().all()
    two = adaptive("at+kd", nets={"student": lambda: zoo(STUDENT, 2), "teacher": lambda: zoo(STUDENT, 2)})
    losses = two(batch()._replace(y=torch.arange(B) % 2))
    total(losses).backward()
    assert all(v.isfinite().all() for v in losses.values())


def test_half_precision() -> None:
    model = adaptive("at+kd")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = model(batch())
    total(losses).backward()
    assert all(v.dtype == torch.float32 and v.isfinite().all() for v in losses.values())
    assert all(p.grad.isfinite().all() for p in model.own_parameters() if p.grad is not None)
