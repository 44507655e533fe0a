"""What a step of KD costs with a live, a faster and a cached teacher, against the floor: the student alone.

    python -m benchmarks.cache_step                # about three minutes of one core
    python -m benchmarks.cache_step --rounds 9 --pairs resnet20-resnet8

Batches of 64 pictures of noise (3x32x32, 100 classes), untrained nets, SGD with momentum, the student channels-last, one thread.
All variants run in one process in random order, every round anew; given is the median of CPU time. ``cached`` reads float16,
``int8`` bytes; both decode in each step. Writes a line a pair to benchmarks/results/cache_step.jsonl.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from potstill.cache import Cached, Layout, Store
from potstill.losses import CE, KD
from potstill.models import resolve
from potstill.runs import environment, git_state, now
from potstill.schemes import Link, Scheme, offline, total
from potstill.taps import Frozen, Tapped
from potstill.teacher import speed_up
from potstill.types import Batch

RESULTS = Path(__file__).parent / "results" / "cache_step.jsonl"
BATCH, CLASSES, BATCHES = 64, 100, 4
PAIRS = ("resnet20-resnet8", "resnet32x4-resnet8x4")


def net(name: str, seed: int) -> nn.Module:
    torch.manual_seed(seed)
    made: nn.Module = resolve(f"zoo:{name}", num_classes=CLASSES, in_channels=3).module
    return made


def batches() -> list[Batch]:
    g = torch.Generator().manual_seed(0)
    ids = torch.arange(BATCH * BATCHES).view(BATCHES, BATCH)
    return [Batch(torch.rand(BATCH, 3, 32, 32, generator=g), i % CLASSES, i, torch.zeros_like(i)) for i in ids]


def stepper(scheme: Scheme, data: list[Batch]) -> Callable[[], None]:
    """One training step, of the next batch."""
    scheme.train()
    optimizer = torch.optim.SGD(scheme.parameters(), 0.05, 0.9, weight_decay=5e-4, fused=True)
    at = 0

    def step() -> None:
        nonlocal at
        total(scheme(data[at % len(data)])).backward()
        optimizer.step()
        optimizer.zero_grad()
        at += 1

    return step


def variants(pair: str, folder: Path) -> tuple[dict[str, Callable[[], None]], dict[str, Any]]:
    """The steps to compare, by name, and what is known of them."""
    t_name, s_name = pair.split("-")
    data = batches()

    def scheme(teacher: nn.Module | None = None) -> Scheme:
        links = [Link(CE(), 0.1, teacher=None), Link(KD(4.0), 0.9)]
        made = offline(net(s_name, 1), net(t_name, 0), links) if teacher is not None else alone()
        made.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        if teacher is not None:
            made.nets["teacher"] = teacher
        return made

    def alone() -> Scheme:
        return Scheme({"student": net(s_name, 1)}, [Link(CE(), 1.0, teacher=None)])

    plain = Tapped(net(t_name, 0)).eval()
    with torch.no_grad():
        plain.train()(data[0].x)  # statistics of the pictures
    live = Frozen(plain)
    sped = speed_up(plain, data[0].x, precision="fast")
    facts: dict[str, Any] = {"how": sped.how, "notices": sped.notices}
    steps = {"floor": stepper(scheme(), data), "live": stepper(scheme(live), data)}
    steps["fast"] = stepper(scheme(Frozen(sped.net)), data)
    for name, kind in ("cached", "float16"), ("int8", "int8"):
        said = live(data[0].x)
        layout = Layout.of(said, kind)
        store = Store(folder / pair / name, np.arange(BATCH * BATCHES), 1, layout.nbytes, {})
        cached = Cached(store, layout, live)
        for batch in data:
            cached(batch)
        assert store.finished
        facts[name] = {"bytes": layout.nbytes, "kl": layout.errors(said)["logits"]}
        steps[name] = stepper(scheme(Cached(store, layout, None)), data)
    return steps, facts


def measure(steps: dict[str, Callable[[], None]], rounds: int) -> dict[str, float]:
    """Milliseconds of CPU time of each step: medians of interleaved rounds."""
    took: dict[str, list[float]] = {name: [] for name in steps}
    for step in steps.values():
        step()
    rng, names = random.Random(0), list(steps)
    for _ in range(rounds):
        rng.shuffle(names)
        for name in names:
            began = time.process_time()
            steps[name]()
            took[name].append(1e3 * (time.process_time() - began))
    return {name: statistics.median(each) for name, each in took.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--pairs", nargs="+", default=PAIRS)
    args = parser.parse_args()
    torch.set_num_threads(1)
    for pair in args.pairs:
        with tempfile.TemporaryDirectory() as folder:
            steps, facts = variants(pair, Path(folder))
            ms = measure(steps, args.rounds)
        row = {"pair": pair, "rounds": args.rounds, "ms": ms, "of_floor": {k: v / ms["floor"] for k, v in ms.items()}}
        row |= {**facts, "at": now(), "git": git_state(), "environment": environment("cpu")}
        RESULTS.parent.mkdir(exist_ok=True)
        with open(RESULTS, "a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        print(pair, {k: f"{v:.1f} ms ({v / ms['floor']:.2f})" for k, v in ms.items()}, facts, sep="\n  ")


if __name__ == "__main__":
    main()
