"""Time and idleness of a step, on a CPU and on a GPU. The GPU's part has not been run on one yet."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

import torch

Step = Callable[[], None]
Make = Callable[[], Step | str]


def seconds(step: Step, device: str) -> float:
    """CPU seconds of a call on a CPU; seconds on a GPU, from idle to idle."""
    if device == "cpu":
        began = time.process_time()
        step()
        return time.process_time() - began
    torch.cuda.synchronize(device)
    began = time.perf_counter()
    step()
    torch.cuda.synchronize(device)
    return time.perf_counter() - began


def busy(step: Step) -> float:
    """Seconds of a call in which the GPU ran a kernel or a copy. How long the call takes must be measured without the profiler,
    which slows down what the host does."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        step()
        torch.cuda.synchronize()
    on_device = (
        e.time_range
        for e in profile.events() or ()
        if e.device_type == torch.autograd.DeviceType.CUDA and not e.is_user_annotation
    )
    return covered((r.start, r.end) for r in on_device) / 1e6


def covered(spans: Iterable[tuple[float, float]]) -> float:
    """The length of the union of spans: kernels of several streams may run at once."""
    total, until = 0.0, float("-inf")
    for start, end in sorted(spans):
        total += max(0.0, end - max(start, until))
        until = max(until, end)
    return total
