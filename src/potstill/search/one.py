"""One trial of a sweep: a run with its settings, and where that is asked for its pruning; gone on with where it was killed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from potstill import cost, run
from potstill.config.schema import Config
from potstill.console import Console
from potstill.convoy import Convoy
from potstill.engine import whole
from potstill.errors import ConfigError, InterruptedRun
from potstill.ready import Objects
from potstill.runs import Journal, RunFolder
from potstill.together import Place

LEAST = 0.01
"""A share of channels below which nothing is pruned."""
COSTS = ("parameters", "macs", "bytes", "latency")
Told = Callable[[int, float], bool]


class Stopped(InterruptedRun):
    """The trial is worse than the others and was stopped."""


@dataclass(frozen=True)
class Outcome:
    """What a trial came to.

    Attributes:
        value: top-1 on the validation data at the best epoch, the mean over the seeds.
        costs: parameters, macs, bytes, latency (ms) of the net.
        epochs: that were trained.
        net: the directory of the net, a run or a compression.
    """

    value: float
    costs: dict[str, float]
    epochs: int
    net: Path = field(default_factory=Path)


def attempt_by_step(
    config: Config,
    home: Path,
    *,
    prune: float | None,
    recover: int,
    objects: Objects,
    console: Console,
    told: Told,
    convoy: Convoy | None = None,
) -> Generator[Place, None, Outcome]:
    """Train, and prune and train again where ``prune`` says so; what is done of it already stays.

    Args:
        config: of the run; ``out`` and ``name`` are those of ``home``.
        told: the epoch and the accuracy on the validation data after each epoch of the first seed; says whether to stop.
        convoy: the trials that are trained side by side with this one.

    Raises:
        Stopped: ``told`` said so.
        PotstillError: of the class of what is wrong.
    """
    objects_ = objects if any(o is not None for o in vars(objects).values()) else None
    said: set[int] = set()

    def each(seed: int, row: Mapping[str, Any]) -> None:
        if seed == config.seed and row["epoch"] not in said and "top1" in row["val"]:
            said.add(row["epoch"])
            if told(row["epoch"], row["val"]["top1"]):
                raise Stopped(f"after epoch {row['epoch']}, worse than the median of the other trials")

    facts = yield from _trained(config, home, objects_, console, each, convoy)
    outcome = Outcome(_value(home, facts["seeds"]), _costs(facts["student"]), facts["budget"]["epochs"], home)
    if prune is not None and prune >= LEAST:
        outcome = _pruned(outcome, config, facts, prune, recover, objects, console)
    for state in home.glob("**/state"):  # nothing goes on from here; of many trials it would fill the disk
        shutil.rmtree(state)
    return outcome


attempt = whole(attempt_by_step)


def _trained(
    config: Config, home: Path, objects: Objects | None, console: Console, each: run.OnEpoch, convoy: Convoy | None
) -> Generator[Place, None, dict[str, Any]]:
    """The facts of the run, which is begun, gone on with, or done."""
    status = None
    try:
        status = RunFolder.open(home).facts["status"]
    except ConfigError:
        shutil.rmtree(home, ignore_errors=True)  # killed before it was a run
    if status == "done":
        return RunFolder.open(home).facts
    if status is not None:
        try:
            for row in Journal(home / f"student-s{config.seed}" / "metrics.jsonl").rows():
                each(config.seed, row)
            going = run.resume_by_step(home, objects=objects, console=console, on_epoch=each, convoy=convoy)
            return (yield from going).facts
        except (ConfigError, ValueError):  # what it depends on has changed, or it is damaged: from the start
            shutil.rmtree(home)
    command = ["potstill sweep"]
    new = run.begin_by_step(config, objects, command=command, console=console, on_epoch=each, convoy=convoy)
    return (yield from new).facts


def _value(home: Path, seeds: list[int]) -> float:
    results = [json.loads((home / f"student-s{seed}" / "result.json").read_text("utf-8")) for seed in seeds]
    return sum(float(r["best"]["val"]["top1"]) for r in results) / len(results)


def _costs(facts: Mapping[str, Any]) -> dict[str, float]:
    return {name: facts["latency_ms" if name == "latency" else name] for name in COSTS}


def _pruned(
    trained: Outcome,
    config: Config,
    facts: Mapping[str, Any],
    prune: float,
    recover: int,
    objects: Objects,
    console: Console,
) -> Outcome:
    """The net with a share of its channels gone, trained again by the teacher that it has, or that it was."""
    from potstill.compress.chain import compress

    named = config.teacher.model if config.teacher and objects.teacher is None else None
    done = compress(
        str(trained.net),
        trained.net / "pruned",
        prune=prune,
        recover=recover,
        control=False,
        teacher=objects.teacher if objects.teacher is not None else named,
        data=objects.data,
        trust_code=config.trust_code,
        console=console,
    )
    last = done.facts["stages"][-1]["facts"]
    c, h, w = facts["data"]["size"]
    own = done.net.preprocess
    shape = ((own and own.channels) or c, *((own and own.size) or (h, w)))
    costs = {name: float(last[name]) for name in COSTS if name != "latency"}
    costs["latency"] = cost.latency_ms(done.student, shape)
    return Outcome(float(last["val"]["top1"]), costs, trained.epochs, done.path)
