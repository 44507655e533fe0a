"""Every preset is built and trained for two steps, for pairs of every kind. What cannot work is refused in a sentence."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import pytest
import torch
from torch import Tensor, nn

from potstill.errors import ModelError
from potstill.methods import PRESETS, expand
from potstill.methods.build import Built, build
from potstill.models import resolve
from potstill.schemes.scheme import total
from potstill.types import Batch
from tests.methods.test_probe import Vgg, Vit

CLASSES, SAMPLES = 5, 20
X = torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(SAMPLES) % CLASSES


def zoo(name: str) -> nn.Module:
    return resolve(f"zoo:{name}", num_classes=CLASSES).module


PAIRS: dict[str, tuple[Callable[[], nn.Module], Callable[[], nn.Module]]] = {
    "resnet14 -> resnet8": (lambda: zoo("resnet14"), lambda: zoo("resnet8")),
    "wrn_16_2 -> resnet8": (lambda: zoo("wrn_16_2"), lambda: zoo("resnet8")),
    "vgg -> vgg": (lambda: Vgg((8, 12, 16), inplace=False), lambda: Vgg((4, 8, 12), inplace=False)),
    "resnet14 -> mobile_half": (lambda: zoo("resnet14"), lambda: zoo("mobile_half")),
    "vit -> vit": (lambda: Vit(6, 12), lambda: Vit(3, 8)),
    "resnet14 -> vit": (lambda: zoo("resnet14"), lambda: Vit(3, 8)),
}
"""Stages behind ReLUs; a signed teacher; a user's nets with poolings; a signed student of four stages; tokens; a mixed pair."""

CHANNELS = "needs as many channels.*nst or at"
REFUSED: dict[tuple[str, str], str] = {
    **{(method, pair): CHANNELS for method in ("fsp", "kdsvd") for pair in list(PAIRS)[1:]},
    **{
        (method, "resnet14 -> vit"): r"no adapter from shape \(16, 8\) to \(32, 8, 8\).*vid"
        for method in ("fitnet", "fitnet_2stage")
    },
    # whose last map is 1x1 in these small pictures
    **{(method, "resnet14 -> mobile_half"): r"one position.*fitnet" for method in ("cwd", "ft")},
}
"""Which method cannot serve which pair, and what is said of it: the reason and what to take instead. All others work."""


@cache
def nets(pair: str) -> tuple[nn.Module, nn.Module]:
    torch.manual_seed(0)
    teacher, student = PAIRS[pair]
    return teacher(), student()


def made(pair: str, method: str) -> Built:
    teacher, student = nets(pair)
    facts = {"num_classes": CLASSES, "num_samples": SAMPLES, "labels": LABELS}
    torch.manual_seed(1)
    return build(student, teacher, expand(method), X, facts=facts)


def batch(step: int) -> Batch:
    ids = torch.arange(4) + 4 * step
    return Batch(X.flip(0) if step else X, LABELS[ids], ids, torch.zeros_like(ids), progress=0.5)


def state(net: nn.Module) -> list[Tensor]:
    return [v.clone() for v in net.state_dict().values()]


@pytest.mark.parametrize("pair", PAIRS)
@pytest.mark.parametrize("method", PRESETS)
def test_every_preset_serves_every_pair_or_says_why_not(method: str, pair: str) -> None:
    if (method, pair) in REFUSED:
        with pytest.raises(ModelError, match=f"(?s)^losses.{method}: .*{REFUSED[method, pair]}"):
            made(pair, method)
        return
    teacher, student = nets(pair)
    before = state(teacher)
    for name in (method, f"{method}+kd") if method != "kd" else (method,):
        built = made(pair, name)
        taught = False
        for scheme in (*(first.scheme for first in built.before), built.scheme):
            for step in range(2):
                student.zero_grad()
                losses = scheme.begin().train()(batch(step))
                assert all(row.shape == (4,) and row.isfinite().all() for row in losses.values())
                alone = name == method and step == 0 and method in losses
                (losses[method].mean() if alone else total(losses)).backward()
                slopes = [p.grad for p in student.parameters() if p.grad is not None]
                assert all(g.isfinite().all() for g in slopes)
                taught |= alone and any(bool(g.any()) for g in slopes)
        assert taught or name != method, f"{method} by itself teaches the student nothing"
    assert all(p.grad is None for p in teacher.parameters())
    assert all(torch.equal(a, b) for a, b in zip(before, state(teacher), strict=True))
    assert not teacher.training


@pytest.mark.parametrize("method", ["dkd", "nkd"])
def test_two_classes_are_refused_where_the_loss_compares_the_others(method: str) -> None:
    torch.manual_seed(0)
    built = build(Vit(1, 4, 2), Vit(1, 6, 2), expand(method), X)
    with pytest.raises(ModelError, match=r"(?s)with 2 classes there is at most one.*kd"):
        built.scheme(batch(0)._replace(y=torch.tensor([0, 1, 0, 1])))


class NoHead(nn.Module):
    """A net that classifies by a convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 6, 3, 2, 1), nn.ReLU(), nn.Conv2d(6, 8, 3, 2, 1), nn.ReLU())
        self.last = nn.Conv2d(8, CLASSES, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.body(x)).mean((2, 3))


NEED_A_VECTOR = {"cc", "crcd", "crd", "itrd", "pad", "pkt", "reviewkd", "rkd", "srrl"}
NEED_A_POOLED_MAP = {"cat_kd", "simkd"}


@pytest.mark.parametrize("method", PRESETS)
def test_a_net_without_a_linear_head(method: str) -> None:
    facts = {"num_classes": CLASSES, "num_samples": SAMPLES, "labels": LABELS}
    if method not in NEED_A_VECTOR | NEED_A_POOLED_MAP:
        torch.manual_seed(0)
        assert all(
            row.isfinite().all() for row in build(NoHead(), NoHead(), expand(method), X).scheme(batch(0)).values()
        )
        return
    reason = "no last linear layer.*try: sp" if method in NEED_A_VECTOR else "no map whose average.*try: srrl"
    with pytest.raises(ModelError, match=f"(?s)losses.{method}: the student has {reason}.*losses.{method}.at="):
        build(NoHead(), NoHead(), expand(method), X, facts=facts)
