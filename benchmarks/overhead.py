"""What the engine adds to a step: `engine.fit` against a bare loop over the same batches, nets, losses and optimizer.

    python -m benchmarks.overhead                  # under a minute of one core
    python -m benchmarks.overhead --profile        # and where it goes

A tiny pair (MLPs of 64-32-10 and 64-64-10, batches of 64, KD and CE, fused SGD with momentum) on one thread. All loops run in one
process by turns, in random order, an epoch of so many steps each; given are medians of CPU microseconds a step, and of what is
added in a round. ``engine`` has what a run has by default: a cosine schedule by steps, losses summed and looked at for NaN, a
callback after each step. ``bare`` has none of it; ``plain`` is the engine without the schedule. A line to
benchmarks/results/overhead.jsonl.
"""

from __future__ import annotations

import argparse
import cProfile
import json
import pstats
import random
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from lightning_fabric import Fabric
from torch import nn

from potstill.engine import Stage, fit
from potstill.losses import CE, KD
from potstill.optim import make_optimizer, make_scheduler
from potstill.runs import environment, git_state, now
from potstill.schemes import Link, Scheme, offline, total
from potstill.types import Batch

RESULTS = Path(__file__).parent / "results" / "overhead.jsonl"
BOUND = 150.0
"""Microseconds a step that the engine may add."""


class Batches:
    """The same batches, made once."""

    def __init__(self, n: int) -> None:
        g, ids = torch.Generator().manual_seed(0), torch.arange(64)
        views = torch.zeros_like(ids)
        self.made = [Batch(torch.rand(64, 1, 8, 8, generator=g), ids % 10, ids, views) for _ in range(n)]

    def __len__(self) -> int:
        return len(self.made)

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        return iter(self.made[start:])


def mlp(width: int) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, width), nn.ReLU(), nn.Linear(width, 10))


def scheme() -> Scheme:
    torch.manual_seed(0)
    return offline(mlp(32), mlp(64), [Link(CE(), 0.1, teacher=None), Link(KD(4.0), 0.9)])


def loops(steps: int) -> dict[str, Callable[[], None]]:
    """An epoch of each loop, by name."""
    batches, optimizer = Batches(steps), make_optimizer("sgd", lr=0.05, momentum=0.9, weight_decay=5e-4, fused=True)

    def bare() -> None:
        net = scheme().train()
        step = optimizer(net)
        for batch in batches.epoch(0):
            total(net(batch)).backward()
            step.step()
            step.zero_grad()

    fabric = Fabric(accelerator="cpu", devices=1)

    def engine(schedule: bool) -> None:
        more = {"scheduler": make_scheduler("cosine", 1)} if schedule else {}
        fit([Stage("x", scheme(), batches, 1, optimizer, **more)], fabric)  # type: ignore[arg-type]

    return {"bare": bare, "plain": lambda: engine(False), "engine": lambda: engine(True)}


def measure(rounds: int, steps: int) -> tuple[dict[str, float], dict[str, float]]:
    """CPU microseconds a step of each loop, and what the engine adds in a round."""
    made, rng = loops(steps), random.Random(0)
    took: dict[str, list[float]] = {name: [] for name in made}
    for loop in made.values():
        loop()
    for _ in range(rounds):
        for name in rng.sample(list(made), len(made)):
            began = time.process_time()
            made[name]()
            took[name].append(1e6 * (time.process_time() - began) / steps)
    added = {name: [t - bare for t, bare in zip(took[name], took["bare"], strict=True)] for name in ("plain", "engine")}
    us, more = ({k: round(statistics.median(v), 1) for k, v in each.items()} for each in (took, added))
    return us, more


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--profile", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(1)
    us, added = measure(args.rounds, args.steps)
    row = {"us": us, "added": added, "bound": BOUND, "rounds": args.rounds, "steps": args.steps}
    print(row)
    if args.profile:
        with cProfile.Profile() as profile:
            loops(args.steps)["engine"]()
        pstats.Stats(profile).sort_stats("tottime").print_stats(40)
    else:
        with open(RESULTS, "a", encoding="utf-8") as file:
            file.write(json.dumps({**row, "at": now(), "git": git_state(), "environment": environment("cpu")}) + "\n")


if __name__ == "__main__":
    main()
