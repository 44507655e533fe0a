"""A training step of every method: potstill against the floor and against peers, in one interleaved run.

    python -m benchmarks.speed --peer repdistiller=PATH --peer mdistiller=PATH    # PATH: your own checkout; minutes a method
    python -m benchmarks.speed --only kd at crd --rounds 5 --pair resnet20-resnet8 --variants auto cached
    python -m benchmarks.speed --device cuda --compile --peer repdistiller=PATH   # and images/s, kernels' share, an epoch of KD
    python -m benchmarks.speed --print --plot benchmarks/results/speed.svg

Batches of 64 pictures of noise, 3x32x32, 100 classes, 50,000 samples; SGD 0.05, momentum 0.9, weight decay 5e-4; published
weights. A step is forward, loss, backward and optimizer, as each loop does it. One thread on a CPU; all variants of a method
in one process, in random order every round; given is the median of CPU seconds (on a GPU of seconds, 20 steps between
synchronisations), and the ratios are medians over the rounds of ratios within a round, on which other work of the machine
weighs less.

floor          the student alone: cross-entropy, channels-last, fused SGD
floor bf16     the same in bf16
exact          potstill, the teacher as it was given, to the last bit (`teacher.speed: exact`)
auto           the default: the teacher channels-last, as the student
equal          the teacher equal but for rounding in float32: folded, channels-last (`--compile`: compiled as well)
fast           teacher and student in bf16, where the processor has it (`precision: bf16`; `--compile`: compiled)
cached         the teacher's side read from a cache in float16
fast cached    the same with the student in bf16
peers          their loop on their nets (benchmarks/peers)

`peak` is the memory that two steps need beyond what stood before them, MiB (resident memory on a CPU, each variant in a process
of its own; tensors on a GPU). Lines go to benchmarks/results/speed.jsonl; `method before` is a method's first stage. What is read
on a GPU only is in benchmarks/speed_device.py and speed_epoch.py; it has not been run on one yet.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.peers import peer
from benchmarks.speed_device import Make, Step, busy, peaks, seconds
from benchmarks.speed_show import METHODS, OURS, RESULTS, plot, table
from potstill.cache import Cached, Layout, Store
from potstill.compiled import compile_nets
from potstill.losses import CE
from potstill.methods import expand
from potstill.methods.build import build
from potstill.models import resolve
from potstill.runs import environment, git_state, now
from potstill.schemes import Link, Scheme, total
from potstill.taps import Frozen
from potstill.teacher import has_bf16, speed_up
from potstill.types import Batch

BATCH, CLASSES, SAMPLES = 64, 100, 50_000
STEPS = 20
"""Between synchronisations on a GPU."""
LAST: Any = torch.channels_last
NO_BF16 = "this processor has no instructions for bf16"


@dataclass(frozen=True)
class Case:
    """What is measured: a method (or its first stage, ``NAME before``) on a pair of nets, teacher and student.

    Attributes:
        compiled: whether what can be compiled is.
        times: steps in a call.
    """

    method: str
    pair: tuple[str, str]
    device: str = "cpu"
    compiled: bool = False
    times: int = 1

    @cached_property
    def batch(self) -> Batch:
        g, ids = torch.Generator().manual_seed(0), torch.arange(BATCH, device=self.device)
        x = torch.rand(BATCH, 3, 32, 32, generator=g).to(self.device, memory_format=LAST)
        return Batch(x, ids % CLASSES, ids, torch.zeros_like(ids), progress=0.5)


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


def floor(case: Case, bf16: bool) -> Step | str:
    if bf16 and not has_bf16(case.batch.x.device):
        return NO_BF16
    torch.manual_seed(0)
    scheme = Scheme({"student": net(case.pair[1])}, [Link(CE(), 1.0, teacher=None)])
    scheme.to(case.device).to(memory_format=LAST)  # type: ignore[call-overload]
    if bf16 and case.compiled:
        with mixed(case.batch.x, True):
            compile_nets([scheme], case.batch.x)
    return stepper(case, scheme, bf16, case.batch)


def taught(case: Case, variant: str, folder: Path, samples: int = BATCH) -> Scheme | str:
    """The scheme of a variant; why there is none. A cache of so many samples has the batch in it."""
    x, bf16 = case.batch.x, variant.startswith("fast")
    if bf16 and not has_bf16(x.device):
        return NO_BF16
    torch.manual_seed(0)
    name, before = case.method.removesuffix(" before"), case.method.endswith(" before")
    facts = {"num_classes": CLASSES, "num_samples": SAMPLES, "labels": torch.arange(SAMPLES) % CLASSES}
    built = build(net(case.pair[1]), net(case.pair[0]), expand(name), x[:2].cpu(), facts=facts)
    scheme: Any = built.before[0].scheme if before else built.scheme
    scheme.to(case.device).to(memory_format=LAST)
    alone = "teacher" not in scheme.active
    if alone and variant not in ("auto", "fast"):
        return "no link asks the teacher"
    with mixed(x, bf16):
        if not alone:
            scheme.nets["teacher"] = teacher(case, variant, scheme.nets["teacher"], folder, samples)
        if bf16 and case.compiled:
            compile_nets([scheme], x)
    return scheme


def teacher(case: Case, variant: str, live: Frozen, folder: Path, samples: int) -> Frozen | Cached:
    """What teaches in the place of the live teacher, which is channels-last."""
    x = case.batch.x
    if variant == "exact":
        return live.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    if variant in ("equal", "fast"):
        forwards = 10**6 if case.compiled else 0
        return Frozen(speed_up(live.net, x, precision=variant, forwards=forwards).net)  # type: ignore[arg-type]
    if variant == "auto":
        return live
    layout = Layout.of(live(x), "float16")
    store = Store(folder, np.arange(samples), 1, layout.nbytes, {})
    filling = Cached(store, layout, live)
    filling(case.batch)
    return Cached(store, layout, None) if store.finished else filling


def ours(case: Case, variant: str, folder: Path) -> Step | str:
    """A step of a variant; why it is none."""
    scheme, batch = taught(case, variant, folder), case.batch
    if isinstance(scheme, str):
        return scheme
    if variant == "exact":  # a teacher in the default format takes pictures in it
        batch = batch._replace(x=batch.x.contiguous())
    return stepper(case, scheme, variant.startswith("fast"), batch)


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


def variants(case: Case, peers: dict[str, Path | None], wanted: Sequence[str], folder: Path) -> dict[str, Make]:
    """How each variant is made."""
    made: dict[str, Make] = {"floor": partial(floor, case, False)}
    if any(name.startswith("fast") for name in wanted):
        made["floor bf16"] = partial(floor, case, True)
    made |= {name: partial(ours, case, name, folder / name) for name in wanted}
    return made | {n: partial(theirs, case, n, path) for n, path in peers.items() if case.method in peer(n).METHODS}


def measure(case: Case, peers: dict[str, Path | None], wanted: Sequence[str], rounds: int) -> dict[str, Any]:
    """A line of the results."""
    steps: dict[str, Step] = {}
    absent: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as folder:
        memory = peaks(variants(case, peers, wanted, Path(folder) / "peak"), case.device)
        for name, make in variants(case, peers, wanted, Path(folder) / "timed").items():
            step = started(make, name in peers)
            if isinstance(step, str):
                absent[name] = step
            else:
                steps[name] = step
        took: dict[str, list[float]] = {name: [] for name in steps}
        names, rng = [*steps], random.Random(0)
        for _ in range(rounds):
            rng.shuffle(names)
            for name in names:
                took[name].append(seconds(steps[name], case.device) / case.times)
        kernels = {n: busy(step) / case.times for n, step in steps.items()} if case.device != "cpu" else {}

    def ratio(name: str, of: str) -> float:
        return statistics.median(a / b for a, b in zip(took[name], took[of], strict=True))

    medians = {n: statistics.median(t) for n, t in took.items()}
    row: dict[str, Any] = {"method": case.method, "pair": "-".join(case.pair), "device": case.device, "rounds": rounds}
    row |= {"seconds": medians, "peak_mib": memory, "absent": absent}
    row["images_per_second"] = {n: round(BATCH / s, 1) for n, s in medians.items()}
    row["outside_kernels"] = {n: max(0.0, 1 - s / medians[n]) for n, s in kernels.items()}
    row["of_floor"] = {n: ratio(n, "floor bf16" if n.startswith("fast") else "floor") for n in took}
    row["of"] = {p: {n: ratio(n, p) for n in took if n in OURS} for p in peers if p in took}
    return row | {"compiled": case.compiled, "at": now(), "git": git_state(), "environment": environment(case.device)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", action="append", default=[], metavar="NAME[=PATH]")
    parser.add_argument("--only", nargs="+", default=METHODS)
    parser.add_argument("--variants", nargs="*", default=OURS)
    parser.add_argument("--pair", default="resnet32x4-resnet8x4")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--print", action="store_true")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="bars of the ratios to each peer, .svg or .png")
    args = parser.parse_args()
    if unknown := {*args.only} - {*METHODS} | {*args.variants} - {*OURS}:
        parser.error(f"unknown: {', '.join(unknown)}; methods: {', '.join(METHODS)}; variants: {', '.join(OURS)}")
    torch.set_num_threads(1)
    if args.device == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""  # the peers ask whether there is a GPU, and then use it
    else:
        torch.backends.cudnn.benchmark = True  # as the peers have it
    teacher, student = args.pair.split("-")
    given = (p.partition("=") for p in args.peer)
    peers = {name: Path(path).resolve() if path else None for name, _, path in given}
    for method in () if args.print else args.only:
        case = Case(method, (teacher, student), args.device, args.compile, 1 if args.device == "cpu" else STEPS)
        row = measure(case, peers, args.variants, args.rounds)
        RESULTS.parent.mkdir(exist_ok=True)
        with open(RESULTS, "a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        shown = {k: round(v, 3) for k, v in row["seconds"].items()}
        print(method, shown, row["of"], row["peak_mib"], row["absent"], flush=True)
    if args.device != "cpu" and not args.print:
        from benchmarks.speed_epoch import epochs

        print("an epoch of KD, seconds:", epochs(Case("kd", (teacher, student), args.device, args.compile), peers))
    print(table())
    if args.plot:
        plot(args.plot)


if __name__ == "__main__":
    main()
