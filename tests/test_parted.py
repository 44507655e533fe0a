"""What differs when a batch is cut, and that nothing else does."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from lightning_fabric import Fabric

from potstill.config.load import resolve
from potstill.engine import backward
from potstill.losses import CE, CRD, KD, RKD, FitNet, Loss
from potstill.parted import parted, words
from potstill.run import check
from potstill.schemes import Link, Scheme, offline
from tests.engine_case import Digits, net


def scheme(loss: Loss, at: str = "logits", norm: bool = False) -> Scheme:
    torch.manual_seed(0)
    links = [Link(CE(), 0.5, teacher=None), Link(loss, 1.0, at=at, name="it")]
    return offline(net(4, dropout=0.0, norm=norm), net(8), links)


CASES = {
    "nothing": (lambda: scheme(KD()), {}),
    "the student's norm": (lambda: scheme(KD(), norm=True), {"normalises": ["student"]}),
    "an adapter's norm": (lambda: scheme(FitNet((4, 8, 8), (8, 8, 8)), "0"), {"normalises": ["it"]}),
    "relations": (lambda: scheme(RKD()), {"compares": ["it"]}),
    "a memory": (
        lambda: scheme(CRD((10,), (10,), num_samples=160, labels=torch.arange(160) % 10)),
        {"remembers": ["it"]},
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_what_is_named_is_what_differs(case: str) -> None:
    make, expected = CASES[case]
    made, batch = make(), next(Digits().epoch(0))
    before, random = copy.deepcopy(made.state_dict()), torch.get_rng_state()
    assert parted(made, batch) == expected
    torch.testing.assert_close(made.state_dict(), before, rtol=0, atol=0, equal_nan=True)
    assert torch.equal(torch.get_rng_state(), random)
    grads = []
    for parts in (1, 4):
        each = copy.deepcopy(made)
        torch.manual_seed(1)
        backward(Fabric(accelerator="cpu", devices=1), each, batch, parts)
        grads.append(torch.cat([p.grad.flatten() for p in each.parameters()]))
    assert torch.allclose(*grads, rtol=1e-4, atol=1e-6) == (not expected), "and that is so"


def test_words() -> None:
    assert words({}) == "the gradient of the whole batch"
    assert words({"compares": ["rkd", "cc"]}).endswith(", but for what compares the samples of a part (rkd, cc)")


def test_a_run_says_it(teacher_run: Path) -> None:
    settings = [
        *("kind=distill", "data.source=digits", "data.limit=200", "student.model=zoo:cnn(widths=(4, 8))"),
        *("method=rkd+kd", f"teacher.model={teacher_run}", "accumulate=4", "device=cpu"),
    ]
    lines = check(resolve([], settings, {}).config)
    (line,) = [line for line in lines if line.startswith("accumulate")]
    assert line.startswith("accumulate 4 parts of 16 pictures: the gradient of the whole batch, but for batch norm")
    assert "(student); what compares the samples of a part (rkd)" in line
