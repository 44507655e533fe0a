"""A few steps with a throw-away net before the run: do shapes fit, what are the losses, how long is a step?"""

from __future__ import annotations

import itertools
import time
from typing import cast

import torch
from lightning_fabric.utilities import move_data_to_device

from potstill.card import count
from potstill.chain import epochs_of
from potstill.cost import macs, parameters
from potstill.deliver import Delivery
from potstill.errors import ModelError
from potstill.keep import forecast
from potstill.meant import ALONE, losses_of
from potstill.methods.build import Built
from potstill.methods.stages import First
from potstill.pace import hasten, prove
from potstill.parted import parted, words
from potstill.ready import Ready
from potstill.schemes.scheme import Scheme, total
from potstill.schemes.spot_adaptive import SpotAdaptive
from potstill.sharded import seat, shard, sharding
from potstill.taps import Frozen, Tapped
from potstill.teacher import has_bf16
from potstill.together import at_once
from potstill.types import Batch

SMALL_STEP = 2e8
"""Multiply-adds of a step below which one thread is faster than several, which then mostly wait for each other."""


def rehearse(ready: Ready, steps: int = 3, threads: int | None = None) -> Built:
    """Run a few steps with a throw-away student (or teacher, where that is taught first): do shapes fit, how long is a step?

    Says what it saw in ``ready.lines``: the spots, the size of each loss at the first step, the seconds of a step. On a CPU
    it also sets torch to one thread where the nets are tiny.

    Args:
        threads: what a run was started with: sums of floats depend on it, so a resumed run must not choose anew.
    """
    config = ready.config
    teach_first = config.kind == "distill" and ready.teacher is None
    if teach_first:
        built = ready.build(ready.fresh_teacher(config.seed), ALONE, None)
    else:
        student = ready.student(config.seed)
        built = ready.build(student, losses_of(config), ready.teacher)
        delivered = Delivery(student, built).net
    schemes = [*(first.scheme for first in built.before), built.scheme]
    stream = ready.stream(config.seed, labels_only=teach_first or config.kind == "train")
    batches = list(itertools.islice(stream.epoch(0), steps))
    if ready.fabric.device.type == "cpu" and (threads or max(work(ready, scheme) for scheme in schemes) < SMALL_STEP):
        torch.set_num_threads(threads or 1)
    ready.at_once, side_by_side = at_once(ready, schemes)
    passes = -(-config.seeds // ready.at_once)
    stays = [passes * n for n in [*(epochs_of(start, config.epochs) for start in built.before), config.main_epochs]]
    asked = [len(stream) * (min(n, config.cache.views) if config.cache.on else n) for n in stays]
    try:
        placed = [ready.placed(scheme) for scheme in schemes]
        said = forecast(ready, zip(placed, stays, strict=True))
        said += hasten(ready, zip(placed, asked, strict=True), batches[0].x)
        prove(ready, placed, batches[0].x)
        timed = [_timed(ready, shard(scheme, ready.fabric), batches) for scheme in placed]
    except RuntimeError:  # `view` on a channels-last map, say; what is wrong in earnest is raised again
        ready.channels_last = False
        for scheme in schemes:
            scheme.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
        try:
            timed = [_timed(ready, shard(ready.placed(scheme), ready.fabric), batches) for scheme in schemes]
        except RuntimeError as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            names = ", ".join(config.losses) or "ce"
            raise ModelError(
                f"a first step fails: {reason}", hint=f"look at the nets and the losses ({names})"
            ) from error
    if teach_first:
        return built
    *_, first = timed[-1]
    for start, (*_, losses) in zip(built.before, timed, strict=False):
        ready.say(f"before   {_words(start, config.epochs)}; {losses[start.name]:.3g} at the first step")
    for row in built.rows:
        if row["name"] not in first:
            continue  # of weight 0: in no stage, or in the one before alone
        spots = ", ".join(s if s == t else f"{s} - {t}" for s, t in row["at"])
        extra = f", adapters {count(row['parameters'])} parameters" if row["parameters"] else ""
        weight = (
            row["weight"] if isinstance(row["weight"], int | float) else "{first:g} to {last:g}".format(**row["weight"])
        )
        ready.say(f"loss     {row['name']} x {weight} at {spots}{extra}; {first[row['name']]:.3g} at the first step")
    for notice in built.notices:
        ready.say(f"         {notice}")
    for line in said:
        ready.say(line)
    if delivered is not student:
        ready.say(f"deliver  the student with another head: {count(parameters(delivered.module))} parameters in all")
    for line in _parts(ready, schemes[-1], batches[0]):
        ready.say(line)
    for line in side_by_side:
        ready.say(line)
    control = config.control and config.kind == "distill"
    stages = [*(epochs_of(start, config.epochs) for start in built.before), config.main_epochs]
    teaching = sum(passes * n * asking for n, (_, asking, _) in zip(stages, timed, strict=True))
    duration = teaching + sum(config.seeds * n * own for n, (own, *_) in zip(stages, timed, strict=True))
    duration += config.seeds * config.epochs * timed[-1][0] * control
    ready.say(
        f"budget   {config.epochs} epochs of {len(stream):,} steps, batch {config.data.batch}, {config.seeds} seed(s)"
        + (", and the student alone with the same" if control else "")
        + f"; about {human(duration * len(stream))} on {ready.fabric.device.type}{_mixed(ready)}"
        + (f", {100 * teaching / duration:.0f} % of it the teacher's" if teaching else "")
    )
    if _mixed(ready) == " in bf16" and not has_bf16(ready.fabric.device):
        ready.say("         it has no instructions for bf16, which is computed in float32: precision=32 is faster")
    return built


def _mixed(ready: Ready) -> str:
    """The precision of the training, where it is not float32."""
    return {"bf16-mixed": " in bf16", "16-mixed": " in float16"}.get(ready.fabric.strategy.precision.precision, "")


def _parts(ready: Ready, scheme: Scheme | SpotAdaptive, batch: Batch) -> list[str]:
    """What a batch that is cut teaches otherwise than a whole one."""
    parts, processes = ready.config.accumulate, ready.fabric.world_size
    cut = [(parts, f"accumulate {parts} parts of {-(-len(batch.ids) // parts)} pictures")]
    cut.append((processes, f"devices  {processes} processes with {len(batch.ids)} pictures each"))
    if max(parts, processes) == 1:
        return []
    if sharding(ready.fabric):  # the whole nets are not on the device
        batch = move_data_to_device(batch, seat(ready.fabric))
    with ready.fabric.autocast():
        said = words(parted(scheme, batch))
    return [f"{what}: {said}" for n, what in cut if n > 1]


def work(ready: Ready, scheme: Scheme | SpotAdaptive) -> int:
    """Multiply-adds of a step: forward of all nets, and twice as much again for the backward of those that learn."""
    one = 0
    for name in scheme.active:
        net = scheme.nets[name]
        tapped = cast(Tapped, net.net if isinstance(net, Frozen) else net)
        plain = Tapped(tapped.net, (), tapped.prepare).cpu()
        one += macs(plain, ready.splits.shape) * (1 if isinstance(net, Frozen) else 3)
    return one * ready.config.data.batch


def _timed(ready: Ready, scheme: Scheme | SpotAdaptive, batches: list[Batch]) -> tuple[float, float, dict[str, float]]:
    """Seconds of the fastest step, those of its frozen teacher apart; and the mean losses of the first."""
    seconds: list[tuple[float, float]] = []
    asking = 0.0
    first: dict[str, float] = {}

    def now() -> float:
        if ready.fabric.device.type == "cuda":
            torch.cuda.synchronize()
        return time.monotonic()

    def asked(*_: object) -> None:
        nonlocal asking
        asking -= now()

    def answered(*_: object) -> None:
        nonlocal asking
        asking += now()

    live = scheme.nets["teacher"] if "teacher" in scheme.active else None
    hooks = []
    if isinstance(live, Frozen):
        hooks = [live.register_forward_pre_hook(asked), live.register_forward_hook(answered)]
    scheme.begin().train()
    for batch in batches:
        asking, began = 0.0, now()
        with ready.fabric.autocast():
            losses = scheme(batch)
        total(losses).backward()
        first = first or {name: loss.mean().item() for name, loss in losses.items()}
        seconds.append((now() - began - asking, asking))
    for hook in hooks:
        hook.remove()
    return *min(seconds, key=sum), first


def _words(first: First, total: int) -> str:
    """``ab: 3 epochs, the student's layers up to layer3 only`` of a stage before the main one."""
    n, plan = epochs_of(first, total), first.plan
    what = "beside the other losses, the whole student"
    if first.up_to:
        what = f"the student's layers up to {first.up_to[-1]} only"
    elif plan.trains == "adapters":
        what = f"on top, its own {count(sum(p.numel() for p in first.scheme.trains))} parameters only"
    rates = f", learning rate x {plan.lr:g}" * (plan.lr != 1) + f"; then x {plan.main_lr:g}" * (plan.main_lr != 1)
    return f"{first.name}: {n} epoch{'s' * (n > 1)}, {what}{rates}"


def human(seconds: float) -> str:
    """12 -> ``12 s``; 600 -> ``10 min``; 9000 -> ``2.5 h``."""
    return (
        f"{seconds:.0f} s"
        if seconds < 100
        else f"{seconds / 60:.0f} min"
        if seconds < 6000
        else f"{seconds / 3600:.1f} h"
    )
