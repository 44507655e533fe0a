"""What a step of spot-adaptive distillation costs, next to the plain step of the same method.

    python -m benchmarks.spot_adaptive_cost                       # about three minutes of one core
    python -m benchmarks.spot_adaptive_cost --only crd --rounds 9

Two policies are measured: ``undecided`` (half of the decisions are for the teacher) and ``teacher`` (all are: the most
expensive, for no gradient is computed of the way not taken). They stay so: the learning rate is tiny. A step is forward,
backward and the optimizer, batches of 32x32 pictures, 100 classes, one thread, maps channels-last as in runs. Each method stands
beside KD, as in the published tables. All forms run in one process, in random order, every round anew; given is the median over
the rounds of the ratio of their CPU times, so that a load of the machine, which falls on both, hardly shows. ``cutting`` is what
that itself costs: the segments of the student, one after the other, next to its uncut forward pass. Writes a line a pair and
method to benchmarks/results/spot_adaptive_cost.jsonl.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from potstill.methods import expand
from potstill.methods.build import build
from potstill.models import resolve
from potstill.optim import make_optimizer
from potstill.runs import environment, git_state, now
from potstill.schemes import total
from potstill.schemes.spot_adaptive import SpotAdaptive, two_speeds
from potstill.schemes.spots import spot_adaptive
from potstill.segments import evaluating
from potstill.types import Batch

RESULTS = Path(__file__).parent / "results" / "spot_adaptive_cost.jsonl"
PAIRS = {"resnet20-resnet8": 64, "resnet32x4-resnet8x4": 16}  # teacher - student: samples in a batch
METHODS = ("kd", "at", "crd")
CLASSES, SAMPLES, MOST = 100, 50_000, 2.1


def cpu(f: Callable[[], object]) -> float:
    began = time.process_time()
    f()
    return time.process_time() - began


def ratios(forms: dict[str, Callable[[], object]], rounds: int) -> dict[str, tuple[list[float], float]]:
    """By form: its times over those of the first form, round by round, sorted; and its median time."""
    for f in forms.values():
        f()
    times: dict[str, list[float]] = {name: [] for name in forms}
    for _ in range(rounds):
        for name in random.sample([*forms], len(forms)):
            times[name].append(cpu(forms[name]))
    first = next(iter(times.values()))
    return {
        name: (sorted(b / a for a, b in zip(first, t, strict=True)), statistics.median(t)) for name, t in times.items()
    }


def measure(pair: str, method: str, rounds: int) -> dict[str, Any]:
    size = PAIRS[pair]
    x, y = torch.rand(size, 3, 32, 32).to(memory_format=torch.channels_last), torch.randint(CLASSES, (size,))
    ids = torch.arange(size)
    batch = Batch(x, y, ids, torch.zeros_like(ids), progress=0.5)
    facts = {"num_classes": CLASSES, "num_samples": SAMPLES, "labels": torch.arange(SAMPLES) % CLASSES}
    steps: dict[str, Callable[[], object]] = {}
    model: SpotAdaptive | None = None
    for form, bias in (("plain", None), ("undecided", 0.0), ("teacher", 50.0)):
        torch.manual_seed(0)
        teacher, student = (resolve(f"zoo:{name}", num_classes=CLASSES).module for name in pair.split("-"))
        losses = expand(method if method == "kd" else f"{method}+kd")
        scheme: torch.nn.Module = build(student, teacher, losses, x[:2], facts=facts).scheme.train()
        if bias is not None:
            scheme = model = spot_adaptive(scheme, x[:2], initial_bias=bias)  # type: ignore[arg-type]
        scheme = scheme.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        optimizer = two_speeds(make_optimizer("sgd", lr=1e-9, momentum=0.9, weight_decay=5e-4))(scheme)

        def step(scheme: torch.nn.Module = scheme, optimizer: torch.optim.Optimizer = optimizer) -> None:
            total(scheme(batch)).backward()
            optimizer.step()
            optimizer.zero_grad()

        steps[form] = step
    found = ratios(steps, rounds)
    assert model is not None
    assert model.routing is not None
    segments, net = model.routing.student, model.routing.student.net

    def pieces() -> None:
        u = x
        for segment in segments:
            u = segment(u)

    with torch.no_grad(), evaluating(net):
        dispatch, _ = ratios({"uncut": lambda: net(x), "cut": pieces}, rounds)["cut"]
    return {
        "pair": pair,
        "method": method,
        "batch": size,
        "spots": model.names,
        "ratio": {form: round(statistics.median(times), 3) for form, (times, _) in found.items()},
        "spread": {form: [round(times[0], 3), round(times[-1], 3)] for form, (times, _) in found.items()},
        "ms": {form: round(1e3 * median, 1) for form, (_, median) in found.items()},
        "dispatch": round(statistics.median(dispatch), 3),
        "parameters": sum(p.numel() for p in model.own_parameters()),
        "rounds": rounds,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=METHODS, action="append")
    parser.add_argument("--pair", choices=[*PAIRS], action="append")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    random.seed(0)
    rows = [
        measure(pair, method, arguments.rounds)
        for pair in arguments.pair or PAIRS
        for method in arguments.only or METHODS
    ]
    table = Table(title=f"a spot-adaptive step next to the plain one (at most {MOST})")
    for column in ("pair", "method", "plain, ms", "undecided", "teacher", "least - most", "cutting"):
        table.add_column(column)
    for r in rows:
        ratio, spread = r["ratio"], r["spread"]["teacher"]
        cells = (r["ms"]["plain"], ratio["undecided"], ratio["teacher"], " - ".join(map(str, spread)), r["dispatch"])
        table.add_row(r["pair"], r["method"], *map(str, cells))
    Console().print(table)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    machine = {k: environment("cpu")[k] for k in ("cpu", "cores", "torch", "python")} | {"threads": 1}
    about = {**machine, "time": now(), "git": git_state()}
    with arguments.out.open("a", encoding="utf-8") as file:
        file.writelines(json.dumps({**row, **about}) + "\n" for row in rows)


if __name__ == "__main__":
    main()
