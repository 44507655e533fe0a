"""Small schemes for the tests of spot-adaptive distillation."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from potstill.methods import expand
from potstill.methods.build import build
from potstill.models import resolve
from potstill.schemes import Scheme, total
from potstill.schemes.spot_adaptive import SpotAdaptive
from potstill.schemes.spots import spot_adaptive
from potstill.types import Batch

CLASSES, SAMPLES, B = 5, 24, 6
LABELS = torch.arange(SAMPLES) % CLASSES
X = torch.rand(B, 3, 16, 16, generator=torch.Generator().manual_seed(3))
STUDENT, TEACHER = "cnn(widths=(4, 6))", "cnn(widths=(6, 8))"


def zoo(name: str, classes: int = CLASSES) -> nn.Module:
    return resolve(f"zoo:{name}", num_classes=classes).module


def plain(
    method: str = "at+kd", student: Any = STUDENT, teacher: Any = TEACHER, seed: int = 0, **options: Any
) -> Scheme:
    """A scheme in training mode; nets by name or made by a function."""
    torch.manual_seed(seed)
    ours, theirs = (zoo(n) if isinstance(n, str) else n() for n in (student, teacher))
    facts = {"num_classes": CLASSES, "num_samples": SAMPLES, "labels": LABELS}
    return build(ours, theirs, expand(method), X, facts=facts, **options).scheme.train()


def adaptive(
    method: str = "at+kd", *, nets: dict[str, Any] | None = None, seed: int = 0, **options: Any
) -> SpotAdaptive:
    scheme = plain(method, seed=seed, **(nets or {}))
    torch.manual_seed(seed + 1)
    return spot_adaptive(scheme, X, **options)


def batch(n: int = B, progress: float = 0.5) -> Batch:
    ids = torch.arange(n)
    return Batch(X[:n], LABELS[:n], ids, torch.zeros_like(ids), progress=progress)


def say(model: SpotAdaptive, *teacher: bool) -> SpotAdaptive:
    """Make the policy say teacher or student at each spot with certainty (one answer: at all spots)."""
    answers = teacher * (len(model.spots) if len(teacher) == 1 else 1)
    assert model.policy is not None
    last = model.policy.net
    assert isinstance(last, nn.Linear)
    with torch.no_grad():
        last.weight.zero_()
        last.bias.copy_(torch.tensor([[200.0, 0.0] if yes else [0.0, 200.0] for yes in answers]).flatten())
    return model


def slopes(model: nn.Module, losses: dict[str, Tensor]) -> dict[str, Tensor]:
    """The gradient of the sum of the means by every parameter; zeros where there is none."""
    model.zero_grad()
    total(losses).backward(retain_graph=True)
    return {n: torch.zeros_like(p) if p.grad is None else p.grad.clone() for n, p in model.named_parameters()}
