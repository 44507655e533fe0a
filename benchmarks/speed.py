"""A training step of every method: potstill against the floor and against peers, in one interleaved run.

    python -m benchmarks.speed --peer repdistiller=PATH --peer mdistiller=PATH    # PATH: your own checkout; minutes a method
    python -m benchmarks.speed --only kd at crd --rounds 5 --pair resnet20-resnet8 --variants auto cached
    python -m benchmarks.speed --resume ...                          # leaves out what the results have already
    python -m benchmarks.speed --device cuda --peer repdistiller=PATH    # and images/s, kernels' share, an epoch of KD
    python -m benchmarks.speed --print --plot benchmarks/results/speed.svg

Batches of 64 pictures of noise, 3x32x32, 100 classes, 50,000 samples; SGD 0.05, momentum 0.9, weight decay 5e-4; published
weights. A step is forward, loss, backward and optimizer, as each loop does it. One thread on a CPU; all variants of a method
in one process, in random order every round; given is the median of CPU seconds (on a GPU of seconds, 20 steps between
synchronisations), and the ratios are medians over the rounds of ratios within a round, on which other work of the machine
weighs less.

exact            potstill, the teacher as it was given, to the last bit (`teacher.speed: exact`)
auto             the default: the teacher channels-last, as the student
equal            the teacher equal but for rounding in float32: folded, channels-last
cached           the teacher's side read from a cache in float16
compiled         float32, `compile: true`: nets and losses, where that was proved equal; the teacher as `equal`, compiled
compiled cached  the same with the teacher's side from a cache
fast             teacher and student in bf16 and compiled (`teacher.speed: fast`, `precision: bf16`, `compile: true`); where the
                 processor has no instructions for bf16 it is not measured
fast cached      the same with the teacher's side from a cache
peers            their loop on their nets (benchmarks/peers)
floor            the student alone: cross-entropy, channels-last, fused SGD; `floor compiled` and `floor fast` are the same
                 student in those ways, and each variant is compared with the floor of its own precision and compile state

Memory is told in benchmarks/speed_memory.py: each variant, and each peer, in a process of its own; ours with `keep_memory`, as
a run has it. In the timing process freed memory is not kept, for that holds for a whole process, the peers' steps in it too.
Lines go to benchmarks/results/speed.jsonl; `method before` is a method's first stage; `how` says what was compiled. What is
read on a GPU only is in benchmarks/speed_device.py and speed_epoch.py; it has not been run on one yet.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch

from benchmarks import speed_show
from benchmarks.peers import peer
from benchmarks.speed_cases import BATCH, FLOORS, Case, floor_of, started, variants
from benchmarks.speed_device import Step, busy, seconds
from benchmarks.speed_memory import Found, of_step
from benchmarks.speed_show import METHODS, OURS, lines, plot, table
from potstill.runs import environment, git_state, now

STEPS = 20
"""Between synchronisations on a GPU."""


def measure(
    case: Case,
    peers: dict[str, Path | None],
    wanted: Sequence[str],
    rounds: int,
    floors: dict[str, Found] | None = None,
) -> dict[str, Any]:
    """A line of the results.

    Args:
        floors: memory of floors that was measured before on these nets; that of others is put into it.
    """
    steps: dict[str, Step] = {}
    absent: dict[str, str] = {}
    notes: dict[str, list[str]] = {}
    floors = {} if floors is None else floors
    with tempfile.TemporaryDirectory() as folder:
        for name, make in variants(case, peers, wanted, Path(folder) / "timed", notes).items():
            step = started(make, name in peers)
            if isinstance(step, str):
                absent[name] = step
            else:
                steps[name] = step
        took: dict[str, list[float]] = {name: [] for name in steps}
        names, rng = [*steps], random.Random(0)
        for _ in range(rounds):
            rng.shuffle(names)
            for name in [n for n in names if n in steps]:
                try:
                    took[name].append(seconds(steps[name], case.device) / case.times)
                except Exception as error:
                    if name not in peers:
                        raise
                    absent[name] = (
                        f"{type(error).__name__}: {error}"  # that a peer's loss overflows must not end the run
                    )
                    del steps[name], took[name]
        kernels = {n: busy(step) / case.times for n, step in steps.items()} if case.device != "cpu" else {}
        memory: dict[str, Found] = {}
        for name, make in variants(case, peers, wanted, Path(folder) / "memory", {}).items():
            if name in steps:
                memory[name] = floors.get(name) or of_step(make, case.device, keep=name not in peers)
        floors |= {n: found for n, found in memory.items() if n in FLOORS}

    def ratio(name: str, of: str) -> float:
        return statistics.median(a / b for a, b in zip(took[name], took[of], strict=True))

    medians = {n: statistics.median(t) for n, t in took.items()}
    present = [p for p in peers if p in took]
    row: dict[str, Any] = {
        "method": case.method,
        "pair": "-".join(case.pair),
        "device": case.device,
        "batch": case.size,
    }
    row |= {"rounds": rounds, "seconds": medians, "floor_seconds": {n: medians[floor_of(n)] for n in took}}
    row["of_floor"] = {n: ratio(n, floor_of(n)) for n in took}
    row["of"] = {p: {n: ratio(n, p) for n in took if n in OURS} for p in present}
    row |= {"memory_mib": memory, "absent": absent, "how": {n: said for n, said in notes.items() if said}}
    row["images_per_second"] = {n: round(case.size / s, 1) for n, s in medians.items()}
    row["outside_kernels"] = {n: max(0.0, 1 - s / medians[n]) for n, s in kernels.items()}
    return row | {"at": now(), "git": git_state(), "environment": environment(case.device)}


def measured(case: Case, peers: dict[str, Path | None], wanted: Sequence[str], rounds: int) -> bool:
    """Whether one line has all of that: the same nets, at least as many rounds, every variant and peer, or why there is none, and
    its memory in a process of its own."""
    key = {"method": case.method, "pair": "-".join(case.pair), "device": case.device, "batch": case.size}
    asked = {*wanted} | {p for p in peers if case.method in peer(p).METHODS}
    return any(
        key.items() <= row.items() and row["rounds"] >= rounds and asked <= {*row["seconds"], *row["absent"]}
        for row in lines()
        if {*row["seconds"]} <= {n for n, found in row.get("memory_mib", {}).items() if found}
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", action="append", default=[], metavar="NAME[=PATH]")
    parser.add_argument("--only", nargs="+", default=METHODS)
    parser.add_argument("--variants", nargs="*", default=OURS)
    parser.add_argument("--pair", default="resnet32x4-resnet8x4")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batch", type=int, default=BATCH)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--offered", action="store_true", help="leave out methods that none of the peers has")
    parser.add_argument(
        "--resume", action="store_true", help="leave out methods that the results have with all of this"
    )
    parser.add_argument(
        "--results", type=Path, default=speed_show.RESULTS, metavar="FILE", help="where lines go and are read"
    )
    parser.add_argument("--print", action="store_true")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="bars of the ratios to floor and peers, .svg or .png")
    args = parser.parse_args()
    if unknown := {*args.only} - {*METHODS} | {*args.variants} - {*OURS}:
        parser.error(f"unknown: {', '.join(unknown)}; methods: {', '.join(METHODS)}; variants: {', '.join(OURS)}")
    speed_show.RESULTS = args.results
    torch.set_num_threads(1)
    if args.device == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""  # the peers ask whether there is a GPU, and then use it
    else:
        torch.backends.cudnn.benchmark = True  # as the peers have it
    teacher, student = args.pair.split("-")
    given = (p.partition("=") for p in args.peer)
    peers = {name: Path(path).resolve() if path else None for name, _, path in given}
    floors: dict[str, Found] = {}
    for method in () if args.print else args.only:
        case = Case(method, (teacher, student), args.device, 1 if args.device == "cpu" else STEPS, args.batch)
        if args.offered and not any(method in peer(p).METHODS for p in peers):
            continue
        if args.resume and measured(case, peers, args.variants, args.rounds):
            print(f"{method}: measured already", flush=True)
            continue
        row = measure(case, peers, args.variants, args.rounds, floors)
        args.results.parent.mkdir(exist_ok=True)
        with open(args.results, "a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        print(table([row]), flush=True)
        for name, said in [*row["absent"].items(), *((n, s) for n, notes in row["how"].items() for s in notes)]:
            print(f"  {method}, {name}: {said}", flush=True)
    if args.device != "cpu" and not args.print:
        from benchmarks.speed_epoch import epochs

        print("an epoch of KD, seconds:", epochs(Case("kd", (teacher, student), args.device), peers))
    if args.print:
        print(table())
    if args.plot:
        plot(args.plot)


if __name__ == "__main__":
    main()
