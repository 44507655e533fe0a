"""An epoch of CIFAR-100's size by the engine, with its own input pipeline, and by the peers' loops. Not run on a GPU yet.

50,000 pictures of noise, 32x32, batches of 64, KD. Ours are augmented (crop, flip) in each step; the peers are given one ready
batch again and again, in their favour: what their loaders cost is not counted. Called by ``benchmarks.speed --device cuda``.
"""

from __future__ import annotations

import tempfile
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from lightning_fabric import Fabric

from benchmarks.speed_cases import BATCH, CLASSES, SAMPLES, Case, kind, started, taught, theirs
from benchmarks.speed_device import seconds
from potstill.data.arrays import ArrayData
from potstill.data.stream import Stream
from potstill.data.views import Views
from potstill.engine import Stage, fit
from potstill.optim import make_optimizer, make_scheduler
from potstill.schemes import Scheme

VARIANTS = ("auto", "cached", "compiled", "compiled cached", "fast", "fast cached")


def noise(n: int) -> ArrayData:
    """Pictures of CIFAR's shape."""
    rng = np.random.default_rng(0)
    pictures, ids = rng.integers(0, 256, (n, 3, 32, 32), dtype=np.uint8), np.arange(n)
    return ArrayData(pictures, ids % CLASSES, ids)


def epochs(case: Case, peers: dict[str, Path | None], samples: int = SAMPLES) -> dict[str, float | str]:
    """Seconds of an epoch of KD, by variant; why there is none."""
    found: dict[str, float | str] = {}
    stream = Stream(noise(samples), BATCH, views=Views(pad=4, flip=True), device=case.device, cycle=1)
    case = replace(case, method="kd", times=len(stream))
    for variant in VARIANTS:
        with tempfile.TemporaryDirectory() as folder:
            scheme = taught(case, variant, Path(folder) / "cache", samples)
            found[variant] = scheme if isinstance(scheme, str) else engine(scheme, stream, case.device, variant)
    for name, path in peers.items():
        step = started(partial(theirs, case, name, path), foreign=True)
        found[name] = step if isinstance(step, str) else seconds(step, case.device)
    return found


def engine(scheme: Scheme, stream: Stream, device: str, variant: str) -> float:
    """Seconds (of the processor, on a CPU) of the second of two epochs: the first compiles, and fills a cache."""
    at: list[float] = []
    precision = "bf16-mixed" if kind(variant)[0] else "32-true"
    fabric = Fabric(accelerator="cpu" if device == "cpu" else "cuda", devices=1, precision=precision)  # type: ignore[arg-type]

    def told(row: dict[str, object]) -> None:
        if device == "cpu":
            at.append(time.process_time())
        else:
            torch.cuda.synchronize(device)
            at.append(time.perf_counter())

    optimizer = make_optimizer("sgd", lr=0.05, momentum=0.9, weight_decay=5e-4, fused=True)
    stage = Stage("epoch", scheme.begin(), stream, 2, optimizer, make_scheduler("cosine", 2))
    fit([stage], fabric, on_epoch=told)
    return at[1] - at[0]
