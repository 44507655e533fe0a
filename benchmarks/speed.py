"""A training step of every method: potstill against the floor and against a peer, in one interleaved run.

    python -m benchmarks.speed --peer repdistiller=PATH               # PATH: your own checkout; some minutes a method
    python -m benchmarks.speed --only kd at crd --rounds 5 --pair resnet20-resnet8
    python -m benchmarks.speed --print

Batches of 64 pictures of noise, 3x32x32, 100 classes, 50,000 samples; SGD 0.05, momentum 0.9, weight decay 5e-4; published
weights. A step is forward, loss, backward and optimizer, as each loop does it. One thread on a CPU; all variants of a method
in one process, in random order every round; given is the median of CPU seconds (on a GPU of seconds, synchronised), and the
ratios are medians over the rounds of ratios within a round, on which other work of the machine weighs less.

floor     the student alone: cross-entropy, channels-last, fused SGD
exact     potstill, the teacher bit for bit the user's
equal     the teacher equal but for rounding in float32: folded, channels-last (`--compile`: compiled as well)
fast      bf16, compiled, where the processor has it
cached    the teacher's side read from a cache in float16
peers     their loop on their nets

`peak` is the memory that two steps need beyond what stood before them, MiB, each variant in a process of its own (resident memory
on a CPU). Lines go to benchmarks/results/speed.jsonl; `method before` is a method's first stage.
"""

from __future__ import annotations

import argparse
import gc
import json
import multiprocessing
import os
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
from torch import nn

from benchmarks.peers import peer
from potstill.cache import Cached, Layout, Store
from potstill.losses import CE
from potstill.methods import expand
from potstill.methods.build import build
from potstill.models import resolve
from potstill.runs import environment, git_state, now
from potstill.schemes import Link, Scheme, total
from potstill.taps import Frozen
from potstill.teacher import Sped, speed_up
from potstill.types import Batch

RESULTS = Path(__file__).parent / "results" / "speed.jsonl"
BATCH, CLASSES, SAMPLES = 64, 100, 50_000
METHODS = ("kd", "fitnet", "at", "sp", "cc", "vid", "rkd", "pkt", "ab", "ab before", "ft", "ft before", "fsp", "fsp before",
           "nst", "crd", "crd+kd", "dkd", "dist", "reviewkd")  # fmt: skip
OURS = ("exact", "equal", "fast", "cached")
Step = Callable[[], None]


def net(name: str) -> nn.Module:
    module: nn.Module = resolve(f"zoo:{name}", num_classes=CLASSES, in_channels=3).module
    return module


def data(device: str) -> Batch:
    g = torch.Generator().manual_seed(0)
    x = torch.rand(BATCH, 3, 32, 32, generator=g).to(memory_format=torch.channels_last)
    ids = torch.arange(BATCH)
    x, ids = x.to(device), ids.to(device)
    return Batch(x, ids % CLASSES, ids, torch.zeros_like(ids), progress=0.5)


def stepper(scheme: Scheme, batch: Batch) -> Step:
    scheme.begin().train()
    trained = [p for p in scheme.parameters() if p.requires_grad]
    sgd = torch.optim.SGD(trained, 0.05, 0.9, weight_decay=5e-4, fused=True)

    def step() -> None:
        total(scheme(batch)).backward()
        sgd.step()
        sgd.zero_grad()

    return step


def floor(pair: tuple[str, str], batch: Batch) -> Step:
    torch.manual_seed(0)
    scheme = Scheme({"student": net(pair[1])}, [Link(CE(), 1.0, teacher=None)])
    return stepper(scheme.to(batch.x.device).to(memory_format=torch.channels_last), batch)  # type: ignore[call-overload]


def ours(method: str, pair: tuple[str, str], batch: Batch, variant: str, compiled: bool, folder: Path) -> Step | str:
    """A step of a variant; why it is none."""
    torch.manual_seed(0)
    name, before = method.removesuffix(" before"), method.endswith(" before")
    facts = {"num_classes": CLASSES, "num_samples": SAMPLES, "labels": torch.arange(SAMPLES) % CLASSES}
    built = build(net(pair[1]), net(pair[0]), expand(name), batch.x[:2].cpu(), facts=facts)
    scheme: Any = built.before[0].scheme if before else built.scheme
    scheme.to(batch.x.device).to(memory_format=torch.channels_last)
    if "teacher" not in scheme.active:
        return stepper(scheme, batch) if variant == "exact" else "no link asks the teacher"
    live = scheme.nets["teacher"]
    if variant == "cached":
        said = live(batch.x)
        layout = Layout.of(said, "float16")
        store = Store(folder / method.replace(" ", "-"), np.arange(BATCH), 1, layout.nbytes, {})
        Cached(store, layout, live)(batch)
        scheme.nets["teacher"] = Cached(store, layout, None)
    elif variant != "exact":
        precision: Any = variant
        sped: Sped = speed_up(live.net, batch.x, precision=precision, forwards=10**6 if compiled else 0)
        if variant == "fast" and not any("bf16" in h for h in sped.how):
            return "; ".join(sped.notices) or "bf16 did not pay"
        scheme.nets["teacher"] = Frozen(sped.net)
    return stepper(scheme, batch)


def variants(
    method: str, pair: tuple[str, str], peers: dict[str, Path], device: str, compiled: bool, folder: Path
) -> dict[str, Callable[[], Step | str]]:
    """How each variant is made."""
    batch = data(device)
    made: dict[str, Callable[[], Step | str]] = {"floor": lambda: floor(pair, batch)}
    for name in OURS:
        made[name] = lambda name=name: ours(method, pair, batch, name, compiled, folder / name)
    for name, path in peers.items():
        adapter = peer(name)
        if method in adapter.METHODS:
            both = batch.x.contiguous().cpu(), batch.y.cpu()
            made[name] = lambda adapter=adapter, path=path, both=both: adapter.step(path, method, both, pair, device)
    return made


def seconds(step: Step, device: str) -> float:
    if device == "cpu":
        began = time.process_time()
        step()
        return time.process_time() - began
    torch.cuda.synchronize()
    began = time.perf_counter()
    step()
    torch.cuda.synchronize()
    return time.perf_counter() - began


def status(key: str) -> int:
    """A figure of this process's memory, bytes."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(key))
    return int(line.split()[1]) * 1024


def peak(make: Callable[[], Step | str], queue: Any) -> None:
    """What two steps need beyond what stood before, MiB, into the queue."""
    step = make()
    if isinstance(step, str):
        queue.put(None)
        return
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # the peak of resident memory begins here
    before = status("VmRSS")
    step(), step()
    queue.put((status("VmHWM") - before) / 2**20)


def peaks(made: dict[str, Callable[[], Step | str]], device: str) -> dict[str, float | None]:
    if device != "cpu":
        return {}  # a forked process cannot use the GPU
    context, found = multiprocessing.get_context("fork"), {}
    for name, make in made.items():
        queue = context.Queue()
        child = context.Process(target=peak, args=(make, queue))
        child.start()
        found[name] = queue.get(timeout=600)
        child.join()
    return found


def measure(
    method: str, pair: tuple[str, str], peers: dict[str, Path], device: str, compiled: bool, rounds: int
) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        made = variants(method, pair, peers, device, compiled, Path(folder) / "timed")
        memory = peaks(variants(method, pair, peers, device, compiled, Path(folder) / "peak"), device)
        steps, absent = {}, {}
        for name, make in made.items():
            step = make()
            (absent if isinstance(step, str) else steps)[name] = step
        for step in steps.values():
            step()
        took: dict[str, list[float]] = {name: [] for name in steps}
        names, rng = [*steps], random.Random(0)
        for _ in range(rounds):
            rng.shuffle(names)
            for name in names:
                took[name].append(seconds(steps[name], device))

    def ratio(name: str, of: str) -> float:
        return statistics.median(a / b for a, b in zip(took[name], took[of], strict=True))

    row: dict[str, Any] = {"method": method, "pair": "-".join(pair), "device": device, "rounds": rounds}
    row |= {"seconds": {n: statistics.median(t) for n, t in took.items()}, "peak_mib": memory, "absent": absent}
    row["of_floor"] = {n: ratio(n, "floor") for n in took}
    row["of"] = {p: {n: ratio(n, p) for n in took if n in OURS} for p in peers if p in took}
    return row | {"compiled": compiled, "at": now(), "git": git_state(), "environment": environment(device)}


def rows() -> list[dict[str, Any]]:
    """The newest line of each method, pair and device."""
    lines = RESULTS.read_text().splitlines() if RESULTS.exists() else []
    found = {(r["pair"], r["device"], METHODS.index(r["method"])): r for r in map(json.loads, lines)}
    return [found[k] for k in sorted(found)]


def table() -> str:
    """In Markdown."""
    lines = []
    for r in rows():
        columns = [n for n in ("floor", *OURS, *r["of"]) if n in r["seconds"]]
        peers = "; ".join(
            f"{p}: " + ", ".join(f"{n} {v:.2f}" for n, v in of.items() if n in r["seconds"])
            for p, of in r["of"].items()
        )
        times = ", ".join(f"{n} {1e3 * r['seconds'][n]:.0f}" for n in columns)
        memory = ", ".join(f"{n} {v:.0f}" for n, v in r["peak_mib"].items() if v is not None)
        over = ", ".join(f"{n} {v:.2f}" for n, v in r["of_floor"].items() if n in OURS)
        lines.append(f"| {r['pair']} | {r['method']} | {times} | {over} | {peers} | {memory} |")
    head = "| pair | method | ms a step | of the floor | of the peer | peak MiB |\n|---|---|---|---|---|---|"
    return "\n".join([head, *lines])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", action="append", default=[], metavar="NAME=PATH")
    parser.add_argument("--only", nargs="+", default=METHODS)
    parser.add_argument("--pair", default="resnet32x4-resnet8x4")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--print", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(1)
    teacher, student = args.pair.split("-")
    peers = {name: Path(path).resolve() for name, path in (p.split("=", 1) for p in args.peer)}
    for method in () if args.print else args.only:
        row = measure(method, (teacher, student), peers, args.device, args.compile, args.rounds)
        RESULTS.parent.mkdir(exist_ok=True)
        with open(RESULTS, "a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        print(
            method,
            {k: round(v, 3) for k, v in row["seconds"].items()},
            row["of"],
            row["peak_mib"],
            row["absent"],
            flush=True,
        )
    print(table())


if __name__ == "__main__":
    main()
