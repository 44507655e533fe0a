"""The stages of a trial, in order: those that a method wants first, then the main one."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from potstill.engine import Batches, Stage
from potstill.meant import optimizer_of
from potstill.methods.build import Built
from potstill.methods.stages import First
from potstill.optim import make_scheduler
from potstill.ready import Ready
from potstill.schemes.spot_adaptive import SpotAdaptive, two_speeds
from potstill.types import Batch


@dataclass(frozen=True)
class Onward:
    """A stream from its epoch ``first`` on: stages that train one student go through one stream."""

    stream: Batches
    first: int

    def __len__(self) -> int:
        return len(self.stream)

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        return self.stream.epoch(self.first + epoch, start)


def epochs_of(first: First, total: int) -> int:
    """How many epochs a stage before the main one has in a run of ``total``."""
    return max(1, round(first.plan.share * total))


def extra_epochs(built: Built, total: int) -> int:
    """Epochs that come on top of the run's: those in which the student is left alone."""
    return sum(epochs_of(f, total) for f in built.before if f.plan.trains == "adapters")


def chain(
    ready: Ready,
    built: Built,
    stream: Batches,
    name: str,
    epochs: int,
    *,
    validate: Callable[[], dict[str, float]],
    save_best: Callable[[], dict[str, Any]],
    patience: int | None,
) -> list[Stage]:
    """The stages before the main one, and the main one, in which alone the student is measured and the best epoch chosen.

    Args:
        name: of the main stage.
        epochs: the student's in all.
    """
    config = ready.config
    shared: dict[str, Any] = {"clip": config.clip, "accumulate": config.accumulate}

    def schedule(n: int, constant: bool = False) -> Any:
        s = config.schedule
        return make_scheduler("constant", n) if constant else make_scheduler(s.name, n, s.warmup, **s.args)

    stages, gone = [], 0
    for first in built.before:
        plan, n = first.plan, epochs_of(first, epochs)
        own = plan.trains == "adapters"
        stages.append(
            Stage(
                name=first.name,
                scheme=first.scheme,
                stream=Onward(stream, 0 if own else gone),
                epochs=n,
                optimizer=optimizer_of(config, plan.lr),
                scheduler=schedule(n, constant=plan.alone),
                **shared,
            )
        )
        gone += 0 if own else n
    rate = math.prod(first.plan.main_lr for first in built.before)
    scheme, optimizer, remark = built.scheme, optimizer_of(config, rate), None
    if isinstance(scheme, SpotAdaptive) and config.spots is not None:
        optimizer = two_speeds(optimizer, config.spots.policy_lr, config.spots.policy_decay)
        remark = lambda: {"decisions": scheme.decisions()}  # noqa: E731
    main = Stage(
        name=name,
        scheme=built.scheme,
        stream=Onward(stream, gone),
        epochs=epochs - gone,
        optimizer=optimizer,
        scheduler=schedule(epochs - gone),
        remark=remark,
        validate=validate,
        save_best=save_best,
        patience=patience,
        **shared,
    )
    return [*stages, main]
