"""The memory that a training step needs beyond what stands between steps.

On a CPU each step is looked at in a fresh process of its own, in which no other work has left memory: set up, one step (after
which the optimizer's state, caches and code pages stand), what is free is given back to the system (``malloc_trim``), the
kernel's mark of the largest resident memory is put back (``/proc/self/clear_refs``), two more steps. The same for peers.

resident    how far that mark (``VmHWM``) came above the resident memory before the two steps: what the machine must have. It
            has the allocator's gaps in it, which differ by some percent from process to process.
tensors     the most that the tensors of a later step take at once beyond what stood before it, as torch's allocator counts
            them: the same each time (what oneDNN allocates for itself is not in it).
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import multiprocessing
import os
import traceback
from collections.abc import Iterator
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch

from benchmarks.speed_device import Make, Step
from potstill.allocator import keep_freed

MIB = 2**20
Found = dict[str, float]


def of_step(make: Make, device: str, keep: bool = False) -> Found:
    """MiB; empty where there is no step, or it fails, of which the trace is printed.

    Args:
        make: gives the step; on a CPU it must be picklable.
        keep: freed memory is kept in the process, as ``keep_memory`` does.
    """
    return on_cpu(make, keep) if device == "cpu" else on_gpu(make, device)


def on_gpu(make: Make, device: str) -> Found:
    """As torch's allocator counts them, after a first call: in that one cuDNN tries what needs much."""
    try:
        step = make()
        if isinstance(step, str):
            return {}
        step()
        gc.collect()
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        step(), step()
        torch.cuda.synchronize(device)
        return {"tensors": (torch.cuda.max_memory_allocated(device) - before) / MIB}
    except Exception:
        traceback.print_exc()
        return {}
    finally:
        step = ""  # what it held is free for the next one
        gc.collect()
        torch.cuda.empty_cache()


def on_cpu(make: Make, keep: bool = False) -> Found:
    """In a process of its own."""
    context = multiprocessing.get_context("spawn")
    ours, others = context.Pipe(duplex=False)
    child = context.Process(target=_looked_at, args=(make, keep, others))
    child.start()
    others.close()  # so that the end of the child ends the waiting
    try:
        found: Found = ours.recv()
    except EOFError:
        found = {}
    child.join()
    return found


def _looked_at(make: Make, keep: bool, said: Any) -> None:
    torch.set_num_threads(1)
    if keep:
        keep_freed()
    step = make()
    if isinstance(step, str):
        said.send({})
        return
    step()
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc has it
    if trim is not None:
        trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # the peak of resident memory begins here
    before = _status("VmRSS")
    step(), step()
    said.send({"resident": (_status("VmHWM") - before) / MIB, "tensors": tensors(step) / MIB})


def tensors(step: Step) -> int:
    """The most bytes that the tensors of a call take at once, beyond what stood before it.

    It is the second of two calls: what was made before the first is freed in it, which the profiler cannot count.
    """
    profiler = torch.profiler
    with _unsaid(), profiler.profile(activities=[profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        step()
        with profiler.record_function("second"):
            step()
    events = sorted(profile.profiler.kineto_results.events(), key=lambda e: e.start_ns())
    began = next(e.start_ns() for e in events if e.name() == "second")
    changes = [(e.start_ns() >= began, e.nbytes()) for e in events if e.name() == "[memory]"]
    return max(accumulate((n for second, n in changes if second), initial=0))


@contextlib.contextmanager
def _unsaid() -> Iterator[None]:
    """What libraries write to standard error by themselves is not wanted: the profiler's start and stop."""
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def _status(key: str) -> int:
    """A figure of this process's memory, bytes."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(key))
    return int(line.split()[1]) * 1024
