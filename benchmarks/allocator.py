"""What keeping freed memory brings to a training step on a CPU, and what memory it costs (``keep_memory``).

    python -m benchmarks.allocator --rounds 3

Each figure is from a process of its own, both ways in turn: median CPU seconds of a step after one to warm up, minor page
faults a step, and the largest resident memory of the process. Lines go to benchmarks/results/allocator.jsonl.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import resource
import statistics
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch

from potstill.allocator import keep_freed
from potstill.losses import CE, KD
from potstill.models import resolve
from potstill.runs import environment, git_state, now
from potstill.schemes import Link, Scheme, total
from potstill.types import Batch

RESULTS = Path(__file__).parent / "results" / "allocator.jsonl"
CASES = {
    "cnn alone": ("zoo:cnn(widths=(8, 16))", None, (1, 8, 8), 300),
    "resnet20 alone": ("zoo:resnet20", None, (3, 32, 32), 8),
    "resnet32x4 -> resnet8x4, kd": ("zoo:resnet8x4", "zoo:resnet32x4", (3, 32, 32), 6),
}
"""Student, teacher, shape of a picture, steps."""


def work(case: str, keep: bool, out: Any) -> None:
    """Train for a few steps, and say what they cost."""
    torch.set_num_threads(1)
    if keep:
        assert keep_freed()
    student, teacher, shape, steps = CASES[case]
    torch.manual_seed(0)
    nets = {"student": resolve(student, num_classes=100, in_channels=shape[0]).module}
    links = [Link(CE(), 0.1, teacher=None)]
    if teacher:
        nets["teacher"] = resolve(teacher, num_classes=100, in_channels=shape[0]).module
        links.append(Link(KD(), 0.9))
    scheme = Scheme(nets, links, frozen=["teacher"] if teacher else []).to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(scheme.parameters(), 0.05, 0.9, weight_decay=5e-4, fused=True)
    took, faults = [], []
    for step in range(steps + 1):
        began, before = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        ids = torch.arange(64) + 64 * step
        total(scheme(Batch(torch.rand(64, *shape), ids % 100, ids, ids))).backward()
        optimizer.step()
        optimizer.zero_grad()
        took.append(time.process_time() - began)
        faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    out.put((statistics.median(took[1:]), statistics.median(faults[1:]), peak))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", nargs="+", choices=CASES, default=list(CASES))
    options = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    for case in options.only:
        rows: dict[bool, list[tuple[float, float, float]]] = {False: [], True: []}
        for _ in range(options.rounds):
            for keep in rows:
                out = context.Queue()
                process = context.Process(target=work, args=(case, keep, out))
                process.start()
                rows[keep].append(out.get())
                process.join()
        (before, lost, small), (after, kept, large) = (
            tuple(statistics.median(column) for column in zip(*rows[keep], strict=True)) for keep in rows
        )
        ratio = statistics.median(b[0] / a[0] for a, b in zip(*rows.values(), strict=True))
        line = {
            "case": case, "rounds": options.rounds, "seconds": [before, after], "ratio": ratio, "faults": [lost, kept],
            "peak_mib": [small, large], "at": now(), "git": git_state(), "environment": environment("cpu"),
        }  # fmt: skip
        with RESULTS.open("a") as file:
            file.write(json.dumps(line) + "\n")
        print(f"{case:<30} {1e3 * before:8.1f} -> {1e3 * after:8.1f} ms, x {ratio:.3f}; "
              f"faults {lost:.0f} -> {kept:.0f}; peak {small:.0f} -> {large:.0f} MiB")  # fmt: skip


if __name__ == "__main__":
    main()
