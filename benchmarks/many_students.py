"""What students cost who are trained side by side on one pass of the teacher, against the same ones trained one by one.

    python -m benchmarks.many_students             # about eight minutes of one core
    python -m benchmarks.many_students --pairs resnet56-resnet20 --what seeds --students 2 8 --precision bf16

The students differ in their seeds (KD), or they are four trials of a sweep: four temperatures of KD, or four methods at their
published weights, which listen at different layers of the teacher. Batches of 64 pictures of noise (3x32x32, 100 classes),
untrained nets, SGD with momentum, channels-last, one thread: a step is that of `potstill distill` and `potstill sweep`, with its
loop, its sums of losses and, side by side, the exchange of the random states. Both ways
run in one process in blocks of a few steps of every student, in random order; given is the median of CPU milliseconds a student
and step. Before it is timed, the weights of both ways are held against each other, bit for bit. Writes a line a case to
benchmarks/results/many_students.jsonl.
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
import statistics
import time
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from benchmarks.cache_step import batches, net
from potstill.engine import Position, Stage, fit_by_step
from potstill.methods.build import build
from potstill.optim import make_optimizer
from potstill.runs import environment, git_state, now
from potstill.schemes import Scheme
from potstill.taps import Tapped
from potstill.together import Group, Place, Turns, counted, side_by_side
from potstill.types import Batch

RESULTS = Path(__file__).parent / "results" / "many_students.jsonl"
PAIRS = ("resnet32x4-resnet8x4", "resnet56-resnet20")
WHAT = ("seeds", "temperatures", "methods")
PRECISION = {"32": "32-true", "bf16": "bf16-mixed"}
Losses = dict[str, dict[str, Any]]
METHODS = ("kd", "at", "sp", "vid")
BLOCK = 2
"""Steps of every student between two looks at the clock."""


class Noise:
    """The same few batches in each epoch."""

    def __init__(self) -> None:
        self.data = batches()

    def __len__(self) -> int:
        return len(self.data)

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        yield from self.data[start:]


def teacher(name: str) -> nn.Module:
    """A frozen net with statistics of the pictures."""
    made = net(name, 0)
    with torch.no_grad():
        Tapped(made).train()(batches()[0].x)
    return made.eval()


def students(what: str, n: int) -> list[tuple[int, Losses]]:
    """The seeds and the losses of students."""
    if what == "temperatures":
        return [(1, {"ce": {"weight": 0.1}, "kd": {"weight": 0.9, "temperature": t}}) for t in (2.0, 4.0, 8.0, 16.0)]
    if what == "methods":
        return [(1, {"ce": {"weight": 1.0}, name: {}}) for name in METHODS]
    return [(seed, {"ce": {"weight": 0.1}, "kd": {"weight": 0.9, "temperature": 4.0}}) for seed in range(1, n + 1)]


def scheme(student: str, taught_by: nn.Module, seed: int, losses: Losses) -> Scheme:
    facts = {"num_classes": 100, "num_samples": 50_000}
    torch.manual_seed(seed)
    made = build(net(student, seed), taught_by, losses, batches()[0].x[:2], facts=facts).scheme
    assert isinstance(made, Scheme)
    made.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return made


def training(one: Scheme, stream: Any, precision: str) -> Generator[Position, None, Position]:
    """One student's training, by step."""
    stage = Stage(
        "distil", one, stream, 10**6, make_optimizer("sgd", lr=0.01, momentum=0.9, weight_decay=5e-4, fused=True)
    )
    fabric = Fabric(accelerator="cpu", devices=1, precision=PRECISION[precision])  # type: ignore[arg-type]
    return fit_by_step([stage], fabric)


def block(steps: Generator[Position, None, Position], n: int) -> Generator[Position, None, None]:
    """The next ``n`` steps of a training."""
    for _ in range(n):
        yield next(steps)


class Way:
    """Students who are trained in one of the two ways."""

    def __init__(self, pair: str, each: list[tuple[int, Losses]], precision: str, together: bool) -> None:
        large, small = pair.split("-")
        self.group = Group(Noise())
        taught_by = teacher(large)
        self.schemes = [scheme(small, taught_by, seed, losses) for seed, losses in each]
        if together:
            self.group.join(self.schemes)
        streams = [self.group if together else Noise() for _ in each]
        self.each = [training(s, stream, precision) for s, stream in zip(self.schemes, streams, strict=True)]
        self.together = together
        self.go(1)  # what comes before the first step

    def go(self, steps: int) -> float:
        """Let every student take so many steps; the CPU seconds of one of them."""
        began = time.process_time()
        if self.together:
            blocks: dict[str, Generator[Place, None, None]] = {
                f"s{i}": counted(block(each, steps)) for i, each in enumerate(self.each)
            }
            side_by_side(blocks, Turns())
        else:
            for each in self.each:
                for _ in block(each, steps):
                    pass
        return (time.process_time() - began) / (steps * len(self.each))

    def weights(self) -> Tensor:
        return torch.cat([v.flatten().double() for s in self.schemes for v in s.state_dict().values()])


def case(pair: str, what: str, n: int, precision: str, rounds: int) -> dict[str, Any]:
    """Milliseconds a student and step in both ways."""
    each = students(what, n)
    ways = {"one_by_one": Way(pair, each, precision, False), "together": Way(pair, each, precision, True)}
    took: dict[str, list[float]] = {name: [] for name in ways}
    for way in ways.values():
        way.go(BLOCK)
    a, b = (way.weights() for way in ways.values())
    assert torch.equal(a, b), "side by side, students must become what they become one by one"
    rng, names = random.Random(0), list(ways)
    for _ in range(rounds):
        rng.shuffle(names)
        for name in names:
            took[name].append(1e3 * ways[name].go(BLOCK))
    ms = {name: statistics.median(each) for name, each in took.items()}
    gain = ms["one_by_one"] / ms["together"]
    return {"pair": pair, "what": what, "students": len(each), "precision": precision, "ms": ms, "gain": gain}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--pairs", nargs="+", default=PAIRS)
    parser.add_argument("--what", nargs="+", default=WHAT, choices=WHAT)
    parser.add_argument("--students", nargs="+", type=int, default=[4], help="of seeds")
    parser.add_argument("--precision", nargs="+", choices=PRECISION, default=["32"])
    args = parser.parse_args()
    torch.set_num_threads(1)
    for pair in args.pairs:
        for what in args.what:
            for n, precision in itertools.product(args.students if what == "seeds" else [4], args.precision):
                row = case(pair, what, n, precision, args.rounds)
                row |= {"rounds": args.rounds, "at": now(), "git": git_state(), "environment": environment("cpu")}
                RESULTS.parent.mkdir(exist_ok=True)
                with open(RESULTS, "a", encoding="utf-8") as file:
                    file.write(json.dumps(row) + "\n")
                print({k: v for k, v in row.items() if k not in ("git", "environment")}, flush=True)


if __name__ == "__main__":
    main()
