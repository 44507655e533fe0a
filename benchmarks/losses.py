"""What each loss of the zoo costs, next to the field's reference form where there is one, at the shapes of two published pairs.

    python -m benchmarks.losses                    # about seven minutes of one core
    python -m benchmarks.losses --only nst --rounds 9

Forward and backward of the loss alone, its adapters included, on fixed features of a batch of 64, one thread. All forms run in
one process in random order, every round anew (what takes seconds in the first rounds only); what is given is the median of CPU
time. CRD and CRCD are measured with the drawing of their negatives, the references without. Peak memory is what torch's
allocator holds above the state before, by its profiler. In the same run value and gradients of the two forms must agree. The
step is that of plain KD: the teacher's forward, the student's forward and backward, cross-entropy and KD; a loss's step is that
less KD plus the loss. Writes a line a loss and pair to benchmarks/results/losses.jsonl.
"""

from __future__ import annotations

import argparse
import inspect
import json
import random
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from benchmarks.reference_losses import REFERENCES, drawn, given_index
from potstill.losses import CE, KD, Loss, zoo
from potstill.methods import PRESETS
from potstill.methods.build import loss_class
from potstill.models import resolve
from potstill.runs import environment, git_state, now
from potstill.types import Batch, Shape

RESULTS = Path(__file__).parent / "results" / "losses.jsonl"
BATCH, CLASSES, SAMPLES = 64, 100, 50_000
PAIRS = {"resnet32x4-resnet8x4": (32, 64, 128, 256), "resnet56-resnet20": (16, 16, 32, 64)}  # channels: stem, stages
VALUE, GRADIENT = 3e-4, 2e-3  # how far the two forms, both in float32, may be apart, relative
SMALL = 0.05
SLOW, SLOW_ROUNDS = 2.0, 3  # a form that takes longer (seconds) is measured in so many rounds only
LEAST = 0.05  # seconds that one measurement takes at least: a fast loss is repeated


@dataclass
class Case:
    """One loss at one pair.

    Attributes:
        forms: forward and backward, by ``potstill`` and, where there is one, ``reference``; calling one does it once.
        seconds: CPU time of one call, a round each; ``repeat``: how often it is called in one measurement.
    """

    pair: str
    name: str
    parameters: int
    forms: dict[str, Callable[[], tuple[Tensor, list[Tensor]]]]
    seconds: dict[str, list[float]] = field(default_factory=dict)
    repeat: dict[str, int] = field(default_factory=dict)
    peak: dict[str, float] = field(default_factory=dict)
    apart: tuple[float, float] | None = None

    def median(self, form: str) -> float:
        return statistics.median(self.seconds[form])


def spots(at: str, channels: tuple[int, ...]) -> Shape | list[Shape]:
    """The shapes, without the batch, at the spots that a preset's rule means; student and teacher have the same here."""
    stem, *stages = channels
    maps: list[Shape] = [(c, 32 >> i, 32 >> i) for i, c in enumerate(stages)]
    rules: dict[str, Shape | list[Shape]] = {
        "logits": (CLASSES,),
        "penultimate": (stages[-1],),
        "last": maps[-1],
        "pooled": maps[-1],
        "stages": maps,
        "stages@pre": maps,
        "stem+stages": [(stem, 32, 32), *maps],
        "stages@t_pre+penultimate": [*maps, (stages[-1],)],
    }
    return maps[int(at.removeprefix("stage:")) - 1] if at.startswith("stage:") else rules[at]


def features(shape: Shape | list[Shape], signed: bool, seed: int) -> list[Tensor]:
    """What a net says there: normal numbers, behind a ReLU where they are not signed."""
    g = torch.Generator().manual_seed(seed)
    shapes = shape if isinstance(shape, list) else [shape]
    drawn = [torch.randn(BATCH, *s, generator=g) for s in shapes]
    return [x if signed else x.relu() for x in drawn]


def case(name: str, pair: str) -> Case:
    """A loss with its published settings, and its reference, at the shapes of a pair."""
    preset = PRESETS.get(name)
    at = preset.at if preset else "logits"
    shape = spots(at, PAIRS[pair])
    cls, settings = loss_class(name)
    settings = {k: v for k, v in settings.items() if k not in ("at", "weight")}
    labels = torch.arange(SAMPLES) % CLASSES
    ids = torch.arange(BATCH) * 7
    batch = Batch(torch.zeros(BATCH, 3, 32, 32), labels[ids], ids, torch.zeros_like(ids), progress=0.5)
    torch.manual_seed(0)
    v = PAIRS[pair][-1]
    known: dict[str, Any] = {"s_shape": shape, "t_shape": shape, "num_classes": CLASSES, "num_samples": SAMPLES}
    known |= {"labels": labels, "s_head": nn.Linear(v, CLASSES), "t_head": nn.Linear(v, CLASSES)}
    known["t_margin"] = [
        torch.full(s[:1], -0.5) for s in (shape if isinstance(shape, list) else [])
    ]  # as from a BatchNorm
    wanted = inspect.signature(cls.__init__).parameters
    loss: Loss = cls(**settings, **{k: x for k, x in known.items() if k in wanted})
    ss = [x.requires_grad_() for x in features(shape, at == "logits" or at.endswith("@pre"), 1)]
    ts = features(shape, at == "logits" or "pre" in at, 2)
    s, t = (ss, ts) if isinstance(shape, list) else (ss[0], ts[0])

    def once(value: Callable[[], Tensor]) -> tuple[Tensor, list[Tensor]]:
        result, learned = value(), [*ss, *loss.parameters()]
        result.backward()
        slopes = [torch.zeros_like(x) if x.grad is None else x.grad for x in learned]
        for x in learned:
            x.grad = None  # not at the next call, whose memory would seem the smaller
        return result.detach(), slopes

    found = Case(pair, name, sum(p.numel() for p in loss.parameters()), {})
    if name in REFERENCES:
        reference = REFERENCES[name](loss, batch)
        same = given_index(name, loss, batch)
        ours = drawn(lambda: once(lambda: loss(s, t, batch, **same).mean()))
        theirs = drawn(lambda: once(lambda: reference(s, t)))
        found.apart = compare(ours, theirs, name)
        found.forms["reference"] = lambda: once(lambda: reference(s, t))
    found.forms["potstill"] = lambda: once(lambda: loss(s, t, batch).mean())
    return found


def compare(ours: tuple[Tensor, list[Tensor]], theirs: tuple[Tensor, list[Tensor]], name: str) -> tuple[float, float]:
    """How far value and gradients (the largest) are apart, relative; they must agree.

    A gradient that is small beside the largest, such as that of a bias in front of a BatchNorm, is rounding: SMALL of the
    largest is the least that it is held against.
    """
    value = float((ours[0] - theirs[0]).abs() / theirs[0].abs())
    least = SMALL * max(float(b.norm()) for b in theirs[1])
    gradient = max(float((a - b).norm() / b.norm().clamp_min(least)) for a, b in zip(ours[1], theirs[1], strict=True))
    if value > VALUE or gradient > GRADIENT:
        raise SystemExit(f"{name}: not the reference's value ({value:.1e} apart) or gradient ({gradient:.1e} apart)")
    return value, gradient


def step(pair: str) -> Case:
    """A step of plain KD with the two nets, on pictures of noise: what a loss's own cost is seen against."""
    torch.manual_seed(0)
    teacher, student = (resolve(f"zoo:{n}", num_classes=CLASSES, in_channels=3).module for n in pair.split("-"))
    teacher.eval()
    x, y = torch.randn(BATCH, 3, 32, 32), torch.arange(BATCH)
    batch, ce, kd = Batch(x, y, y, torch.zeros_like(y)), CE(), KD()

    def once() -> tuple[Tensor, list[Tensor]]:
        student.zero_grad()
        with torch.no_grad():
            said = teacher(x)
        logits = student(x)
        value = 0.1 * ce(logits, said, batch).mean() + 0.9 * kd(logits, said, batch).mean()
        value.backward()
        return value.detach(), []

    return Case(pair, "step", sum(p.numel() for p in student.parameters()), {"potstill": once})


def peak(run: Callable[[], Any]) -> float:
    """The most that torch's allocator holds above what it held before, in MB."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        run()
    events = [e for e in profile.profiler.kineto_results.events() if e.name() == "[memory]"]
    held = most = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        held += event.nbytes()
        most = max(most, held)
    return most / 1e6


def timed(run: Callable[[], Any], repeat: int) -> float:
    """CPU seconds of one call."""
    start = time.process_time()
    for _ in range(repeat):
        run()
    return (time.process_time() - start) / repeat


def measure(cases: list[Case], rounds: int, seed: int, console: Console) -> None:
    """Warm up and weigh every form, then time all of them in random order, round by round."""
    rng, todo = random.Random(seed), [(c, form) for c in cases for form in c.forms]
    for c, form in todo:
        console.print(f"  {c.pair} {c.name} {form}", style="dim")
        start = time.process_time()
        c.peak[form] = peak(c.forms[form])
        slow = time.process_time() - start > SLOW  # no need to call it again to know that once is enough
        c.repeat[form] = 1 if slow else max(1, min(100, round(LEAST / max(timed(c.forms[form], 1), 1e-5))))
        c.seconds[form] = []
    for i in range(rounds):
        rng.shuffle(todo)
        for c, form in todo:
            if i >= SLOW_ROUNDS and c.median(form) > SLOW:
                continue
            c.seconds[form].append(timed(c.forms[form], c.repeat[form]))
        console.print(f"round {i + 1} of {rounds}", style="dim")


def row(c: Case, cases: list[Case], rounds: int) -> dict[str, Any]:
    """A line of the results; milliseconds, MB."""
    one = {x.name: x for x in cases if x.pair == c.pair}
    kd_step, mine = one["step"].median("potstill"), c.median("potstill")
    found: dict[str, Any] = {"pair": c.pair, "loss": c.name, "ms": 1e3 * mine, "peak_mb": c.peak["potstill"]}
    found |= {"step_ratio": (kd_step - one["kd"].median("potstill") + mine) / kd_step, "kd_step_ms": 1e3 * kd_step}
    found["parameters"] = c.parameters
    if c.apart:
        theirs = c.median("reference")
        found |= {"reference_ms": 1e3 * theirs, "reference_peak_mb": c.peak["reference"], "speedup": theirs / mine}
        found |= {"value_error": c.apart[0], "gradient_error": c.apart[1]}
    found = {k: float(f"{v:.4g}") if isinstance(v, float) else v for k, v in found.items()}
    return found | {"rounds": rounds, "batch": BATCH}


def table(pair: str, rows: list[dict[str, Any]]) -> Table:
    """The results of a pair for people."""
    shown = Table(
        title=f"{pair}, batch {BATCH}, one thread", caption="ref: the reference; apart: relative, value or gradient"
    )
    shown.add_column("loss", no_wrap=True)
    for head in ("ms", "ref ms", "faster", "MB", "ref MB", "step/KD", "apart"):
        shown.add_column(head, justify="right", no_wrap=True)
    for r in rows:
        ref = "speedup" in r
        shown.add_row(
            *(
                r["loss"],
                f"{r['ms']:.1f}",
                f"{r['reference_ms']:.1f}" if ref else "",
                f"{r['speedup']:.2f}" if ref else "",
            ),
            *(f"{r['peak_mb']:.1f}", f"{r['reference_peak_mb']:.1f}" if ref else "", f"{r['step_ratio']:.3f}"),
            f"{max(r['value_error'], r['gradient_error']):.0e}" if ref else "",
        )
    return shown


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--only", action="append", choices=sorted(zoo().values()), help="this loss; can be repeated")
    parser.add_argument("--pair", action="append", choices=list(PAIRS), help="this pair; can be repeated")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    a = parser.parse_args()
    console = Console()
    torch.set_num_threads(1)
    names = sorted({"kd", *(a.only or zoo().values())})
    cases = []
    for pair in a.pair or PAIRS:
        cases += [*(case(name, pair) for name in names), step(pair)]
    measure(cases, a.rounds, a.seed, console)
    rows = [row(c, cases, a.rounds) for c in cases if c.name != "step"]
    machine = {k: environment("cpu")[k] for k in ("cpu", "cores", "torch", "python")} | {"threads": 1}
    RESULTS.parent.mkdir(exist_ok=True)
    with open(RESULTS, "a", encoding="utf-8") as file:
        for r in rows:
            file.write(json.dumps({**r, **machine, "time": now(), "git": git_state()}) + "\n")
    for pair in a.pair or PAIRS:
        console.print(table(pair, [r for r in rows if r["pair"] == pair]))


if __name__ == "__main__":
    main()
