"""What benchmarks/speed.py measures: a training step of each variant of a method, of the floors and of the peers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.peers import peer
from benchmarks.speed_device import Make, Step
from potstill.cache import Cached, Layout, Store
from potstill.compiled import compile_nets
from potstill.losses import CE
from potstill.methods import expand
from potstill.methods.build import build
from potstill.models import resolve
from potstill.reduced import Reduced
from potstill.schemes import Link, Scheme, total
from potstill.taps import Frozen
from potstill.teacher import has_bf16, speed_up
from potstill.types import Batch

BATCH, CLASSES, SAMPLES = 64, 100, 50_000
LAST: Any = torch.channels_last
NO_BF16 = "not measured: this processor has no instructions for bf16, so its time here would say nothing"
FLOORS = ("floor", "floor compiled", "floor fast")


@dataclass(frozen=True)
class Case:
    """What is measured: a method (or its first stage, ``NAME before``) on a pair of nets, teacher and student.

    Attributes:
        times: steps in a call.
        size: pictures in a batch.
    """

    method: str
    pair: tuple[str, str]
    device: str = "cpu"
    times: int = 1
    size: int = BATCH

    @cached_property
    def batch(self) -> Batch:
        g, ids = torch.Generator().manual_seed(0), torch.arange(self.size, device=self.device)
        x = torch.rand(self.size, 3, 32, 32, generator=g).to(self.device, memory_format=LAST)
        return Batch(x, ids % CLASSES, ids, torch.zeros_like(ids), progress=0.5)

    def __reduce__(self) -> tuple[Any, ...]:
        """Without the batch, which a process of its own makes anew."""
        return Case, (self.method, self.pair, self.device, self.times, self.size)


def kind(variant: str) -> tuple[bool, bool]:
    """Whether it is in bf16, whether it is compiled."""
    how = variant.removeprefix("floor ")
    return how.startswith("fast"), how.startswith(("fast", "compiled"))


def floor_of(variant: str) -> str:
    """The floor of the same precision and compile state; a peer's is the plain one."""
    bf16, quick = kind(variant)
    return "floor fast" if bf16 else "floor compiled" if quick else "floor"


def net(name: str) -> nn.Module:
    module: nn.Module = resolve(f"zoo:{name}", num_classes=CLASSES, in_channels=3).module
    return module


def mixed(x: Tensor, bf16: bool) -> torch.autocast:
    return torch.autocast(x.device.type, torch.bfloat16, enabled=bf16)


def stepper(case: Case, scheme: Scheme, bf16: bool, batch: Batch) -> Step:
    """Training steps as the engine does them."""
    scheme.begin().train()
    trained = [p for p in scheme.parameters() if p.requires_grad]
    sgd = torch.optim.SGD(trained, 0.05, 0.9, weight_decay=5e-4, fused=True)

    def step() -> None:
        for _ in range(case.times):
            with mixed(batch.x, bf16):
                losses = scheme(batch)
            total(losses).backward()
            sgd.step()
            sgd.zero_grad()

    return step


def compiled(case: Case, scheme: Scheme, bf16: bool, notes: list[str]) -> None:
    """As ``compile: true`` does it; what it says goes to ``notes``."""
    with mixed(case.batch.x, bf16):
        notes += compile_nets([scheme], case.batch.x)[0]


def floor(case: Case, name: str, notes: list[str]) -> Step | str:
    bf16, quick = kind(name)
    if bf16 and not has_bf16(case.batch.x.device):
        return NO_BF16
    torch.manual_seed(0)
    scheme = Scheme({"student": net(case.pair[1])}, [Link(CE(), 1.0, teacher=None)])
    scheme.to(case.device).to(memory_format=LAST)  # type: ignore[call-overload]
    if quick:
        compiled(case, scheme, bf16, notes)
    return stepper(case, scheme, bf16, case.batch)


def taught(
    case: Case, variant: str, folder: Path, samples: int | None = None, notes: list[str] | None = None
) -> Scheme | str:
    """The scheme of a variant; why there is none. A cache of so many samples (None: the batch) has the batch in it."""
    x, (bf16, quick), notes = case.batch.x, kind(variant), [] if notes is None else notes
    if bf16 and not has_bf16(x.device):
        return NO_BF16
    torch.manual_seed(0)
    name, before = case.method.removesuffix(" before"), case.method.endswith(" before")
    facts = {"num_classes": CLASSES, "num_samples": SAMPLES, "labels": torch.arange(SAMPLES) % CLASSES}
    built = build(net(case.pair[1]), net(case.pair[0]), expand(name), x[:2].cpu(), facts=facts)
    scheme: Any = built.before[0].scheme if before else built.scheme
    scheme.to(case.device).to(memory_format=LAST)
    alone = "teacher" not in scheme.active
    if alone and variant not in ("auto", "compiled", "fast"):
        return "no link asks the teacher"
    if not alone:
        with mixed(x, bf16):
            scheme.nets["teacher"] = teacher(case, variant, scheme, folder, samples or case.size, notes)
    if quick:
        compiled(case, scheme, bf16, notes)
    return scheme


def teacher(case: Case, variant: str, scheme: Scheme, folder: Path, samples: int, notes: list[str]) -> Frozen | Cached:
    """What teaches in the place of a scheme's live teacher, which is channels-last."""
    x, live = case.batch.x, cast(Frozen, scheme.nets["teacher"])
    if variant == "exact":
        return live.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    if variant in ("equal", "compiled", "fast"):
        precision, forwards = "fast" if variant == "fast" else "equal", 0 if variant == "equal" else 10**6
        sped = speed_up(live.net, x, precision=precision, forwards=forwards)  # type: ignore[arg-type]
        notes += [f"teacher: {', '.join(sped.how) or 'as it was given'}", *(f"teacher: {n}" for n in sped.notices)]
        return Frozen(sped.net)
    if variant == "auto":
        return live
    kept = Reduced(live, scheme.links)
    said = kept(x)
    layout = Layout.of(said, "float16", dict.fromkeys(kept.packed(said, "signs"), "signs"))
    store = Store(folder, np.arange(samples), 1, layout.nbytes, {})
    filling = Cached(store, layout, kept)
    filling(case.batch)
    return Cached(store, layout, None) if store.finished else filling


def ours(case: Case, variant: str, folder: Path, notes: list[str]) -> Step | str:
    """A step of a variant; why it is none."""
    scheme, batch = taught(case, variant, folder, notes=notes), case.batch
    if isinstance(scheme, str):
        return scheme
    if variant == "exact":  # a teacher in the default format takes pictures in it
        batch = batch._replace(x=batch.x.contiguous())
    return stepper(case, scheme, kind(variant)[0], batch)


def theirs(case: Case, name: str, path: Path | None) -> Step | str:
    both = case.batch.x.contiguous().cpu(), case.batch.y.cpu()
    step: Step | str = peer(name).step(path, case.method, both, case.pair, case.device, case.times)
    return step


def started(make: Make, foreign: bool) -> Step | str:
    """A step that was called once; why there is none. That a peer's code fails here must not end the run."""
    try:
        step = make()
        if not isinstance(step, str):
            step()
    except Exception as error:
        if not foreign:
            raise
        return f"{type(error).__name__}: {error}"
    return step


def variants(
    case: Case, peers: dict[str, Path | None], wanted: Sequence[str], folder: Path, notes: dict[str, list[str]]
) -> dict[str, Make]:
    """How each variant is made, the floors that they are compared with among them."""
    floors = [f for f in FLOORS if f == "floor" or f in map(floor_of, wanted)]
    made: dict[str, Make] = {name: partial(floor, case, name, notes.setdefault(name, [])) for name in floors}
    made |= {name: partial(ours, case, name, folder / name, notes.setdefault(name, [])) for name in wanted}
    return made | {n: partial(theirs, case, n, path) for n, path in peers.items() if case.method in peer(n).METHODS}
