"""How long runs take, measured fairly: one thread, and taking turns, so that all meet the same other load of the machine."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch

CONTENDED = 1.2
"""Wall time over processor time above which other work disturbed a measurement."""


class Latency(NamedTuple):
    """Milliseconds of one run: medians of wall and processor time, the 90th percentile and the least of wall time."""

    wall_ms: float
    cpu_ms: float
    p90_ms: float
    least_ms: float

    @property
    def contended(self) -> bool:
        """Whether other work of the machine, or more than one thread, shows."""
        return not 1 / CONTENDED < self.wall_ms / max(self.cpu_ms, 1e-9) < CONTENDED


def interleaved(runs: Mapping[str, Callable[[], object]], *, repeats: int = 50, warmup: int = 5) -> dict[str, Latency]:
    """The latency of each of ``runs``. They take turns, in an order that turns round, after ``warmup`` rounds that do not count.

    Torch works on one thread meanwhile; the runs must see to other libraries' threads themselves.
    """
    wall: dict[str, list[float]] = {name: [] for name in runs}
    cpu: dict[str, list[float]] = {name: [] for name in runs}
    threads, names = torch.get_num_threads(), list(runs)
    torch.set_num_threads(1)
    try:
        for round_ in range(warmup + repeats):
            for name in names if round_ % 2 else reversed(names):
                run = runs[name]
                w, c = time.perf_counter(), time.process_time()
                run()
                wall[name].append(time.perf_counter() - w)
                cpu[name].append(time.process_time() - c)
    finally:
        torch.set_num_threads(threads)

    def of(name: str) -> Latency:
        w, c = sorted(wall[name][warmup:]), cpu[name][warmup:]
        ms = (statistics.median(w), statistics.median(c), w[min(len(w) - 1, int(0.9 * len(w)))], w[0])
        return Latency(*(1000 * t for t in ms))

    return {name: of(name) for name in names}
