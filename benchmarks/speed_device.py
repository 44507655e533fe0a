"""Time, memory and idleness of a step, on a CPU and on a GPU. The GPU's part has not been run on one yet."""

from __future__ import annotations

import gc
import multiprocessing
import time
import traceback
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch

Step = Callable[[], None]
Make = Callable[[], Step | str]
MIB = 2**20


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


def peaks(made: dict[str, Make], device: str) -> dict[str, float | None]:
    """What two calls of each step need beyond what stood before them, MiB; None where there is no step, or it fails, of which the
    trace is printed."""
    return {name: on_gpu(make, device) if device != "cpu" else on_cpu(make) for name, make in made.items()}


def on_gpu(make: Make, device: str) -> float | None:
    """Of tensors, as torch's allocator counts them, after a first call: in that one cuDNN tries what needs much."""
    try:
        step = make()
        if isinstance(step, str):
            return None
        step()
        gc.collect()
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        step(), step()
        torch.cuda.synchronize(device)
        return (torch.cuda.max_memory_allocated(device) - before) / MIB
    except Exception:
        traceback.print_exc()
        return None
    finally:
        step = ""  # what it held is free for the next one
        gc.collect()
        torch.cuda.empty_cache()


def on_cpu(make: Make) -> float | None:
    """Of resident memory, in a process of its own."""
    context = multiprocessing.get_context("fork")
    ours, others = context.Pipe(duplex=False)
    child = context.Process(target=_resident, args=(make, others))
    child.start()
    others.close()  # so that the end of the child ends the waiting
    try:
        found: float | None = ours.recv()
    except EOFError:
        found = None
    child.join()
    return found


def _resident(make: Make, said: Any) -> None:
    step = make()
    if isinstance(step, str):
        said.send(None)
        return
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # the peak of resident memory begins here
    before = _status("VmRSS")
    step(), step()
    said.send((_status("VmHWM") - before) / MIB)


def _status(key: str) -> int:
    """A figure of this process's memory, bytes."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(key))
    return int(line.split()[1]) * 1024


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
