"""Filling the cache of a teacher ahead of the runs that read it."""

from __future__ import annotations

import time
from typing import Any

import torch

from potstill.cache.net import Cached
from potstill.cache.place import fill
from potstill.config.schema import Config
from potstill.config.sections import CacheConfig
from potstill.console import Console
from potstill.errors import ConfigError, InterruptedRun
from potstill.keep import forecast, put, taught
from potstill.meant import losses_of
from potstill.pace import hasten
from potstill.prepare import prepare
from potstill.ready import EVAL_BATCH, Objects, Ready
from potstill.reduced import Reduced
from potstill.rehearse import SMALL_STEP, work
from potstill.schemes.scheme import Scheme
from potstill.trial import Stop

OFTEN = 10.0
"""Seconds between two lines that say how far it is."""
WAITS = 1.0
"""Seconds between two looks whether another process is done."""


def build(
    config: Config, objects: Objects | None = None, *, console: Console | None = None
) -> list[dict[str, Any]] | None:
    """Ask the teacher of a run about every view of every training picture, and keep its answers: a run of the same teacher,
    data, views and losses then does not ask it. What is there is not asked again; so an interrupted call goes on.

    Any number of processes may do so at the same time, also on several machines that share the folder: started by ``devices=N``,
    by a launcher or one by one. Each takes one part of the cache after the other; who finds no free one waits, and goes on with
    what another leaves that ends before it is done.

    Args:
        config: of the run. Its ``cache`` says what is kept; where it is off, its defaults do.

    Returns:
        one a cache: name, folder, records, bytes, and how many records this process ``asked`` for now. None in a process that
        was started to help the first.

    Raises:
        ConfigError: it cannot be kept, or the teacher has no weights yet.
        InterruptedRun: Ctrl-C or SIGTERM; what was asked is kept.
    """
    console = console or Console()
    if not config.cache.on:
        config = config.model_copy(update={"cache": CacheConfig()})
    ready = prepare(config, objects)
    console = console if ready.fabric.is_global_zero else Console(quiet=True)
    if ready.teacher is None:
        raise ConfigError(
            "the teacher has no weights: what it says is not worth keeping",
            hint="train it first: potstill train --model ..., then --teacher runs/NAME",
        )
    built = ready.build(ready.student(config.seed), losses_of(config), ready.teacher)
    schemes = [ready.placed(scheme) for scheme in [*(first.scheme for first in built.before), built.scheme]]
    lines = forecast(ready, [(scheme, config.epochs * config.seeds) for scheme in schemes])
    left = ready.fabric.broadcast({spots: at.left for spots, at in ready.places.items()})
    asked = [(scheme, -(-left[live.says] // EVAL_BATCH)) for scheme, live in taught(ready, schemes)]
    if ready.fabric.device.type == "cpu" and max((work(ready, s) for s, _ in asked), default=0) < SMALL_STEP:
        torch.set_num_threads(1)
    lines += hasten(ready, asked, ready.example(EVAL_BATCH).to(ready.fabric.device))
    for line in [*ready.lines, *lines]:
        console.say(f" {line}")
    stop, counts = Stop(), dict.fromkeys(ready.places, 0)
    with stop.listening(), ready.fabric.autocast():
        for scheme, live in taught(ready, schemes):
            counts[live.says] += _fill(ready, scheme, live, console, stop)
    if not ready.fabric.is_global_zero:
        return None
    return [
        {
            "name": at.folder.name,
            "folder": str(at.folder),
            "records": at.records,
            "bytes": at.nbytes,
            "asked": counts[spots],
        }
        for spots, at in ready.places.items()
    ]


def _fill(ready: Ready, scheme: Scheme, live: Reduced, console: Console, stop: Stop) -> int:
    """Fill the cache of one teacher, beside any others who do; how many records this process asked for."""
    at = ready.places[live.says]
    for line in put(ready, scheme, live, at, ready.teacher, write=True, share=True):
        console.say(f"  {line}")
    cached = scheme.nets["teacher"]
    assert isinstance(cached, Cached)
    store = cached.store
    said, before, asked, waiting = time.monotonic(), store.left, 0, False

    def heard() -> None:
        nonlocal said, before
        if stop():
            raise InterruptedRun(
                f"stopped with {at.records - store.left:,} of {at.records:,} answers kept",
                hint="the same command goes on",
            )
        if (past := time.monotonic() - said) > OFTEN:
            left = store.left  # by all who fill it
            console.say(
                f"  {100 - 100 * left / at.records:.0f} %, {left:,} of {at.records:,} are left; "
                f"{(before - left) / past:,.0f} a second"
            )
            said, before = time.monotonic(), left

    try:
        while True:
            asked += fill(cached, live, at.data, at.views, EVAL_BATCH, heard)
            if store.finished:
                return asked
            if not waiting:
                console.say(f"  {store.left:,} are left, and other processes fill them: waiting")
            waiting = True
            time.sleep(WAITS)
            heard()
    finally:
        store.close()
