"""What the teacher says of the training pictures, kept: whether it can be, what it will cost, and in a trial."""

from __future__ import annotations

import shutil
from collections.abc import Iterable

import torch

from potstill.cache.codec import Layout
from potstill.cache.net import REFUSALS, Cached, why_not
from potstill.cache.shelf import Plan, Shelf, estimate, install, size
from potstill.errors import ConfigError, MachineError
from potstill.losses import AB
from potstill.models.net import Net
from potstill.prepare import Ready, label, second_of
from potstill.schemes.scheme import Scheme
from potstill.schemes.spot_adaptive import SpotAdaptive
from potstill.taps import Frozen


def forecast(ready: Ready, schemes: Iterable[Scheme | SpotAdaptive]) -> None:
    """Say what the caches of a run will cost and bring; nothing is written.

    Raises:
        ConfigError: the teacher's answers cannot be kept: says why.
        MachineError: the disk is too small.
    """
    c, data = ready.config.cache, ready.splits.train
    root, need = Shelf(c.dir).root.parent, 0
    for scheme, live in _taught(ready, schemes):
        layout = Layout.of(live(_pictures(ready)), c.dtype, _signs(scheme))
        here, saved = estimate(layout, len(data), c.views, ready.config.epochs * ready.config.seeds)
        need += here
        ready.say(
            f"cache    {c.views} views of {len(data):,} pictures, {size(layout.nbytes)} each: {size(here)}; "
            f"saves {100 * saved:.0f} % of the teacher's work"
        )
    if need > (free := shutil.disk_usage(root).free):
        raise MachineError(
            f"the cache needs {size(need)}, {size(free)} are free on the disk of {root}",
            hint="cache.views=1, cache.dtype=int8, another cache.dir, or cache=false",
        )


def keep(ready: Ready, schemes: Iterable[Scheme | SpotAdaptive], teacher: Net | None) -> tuple[list[Cached], list[str]]:
    """Put caches in the places of the schemes' frozen teachers; they, to be closed at the end, and lines that say so."""
    put, lines = [], []
    for scheme, live in _taught(ready, schemes):
        c = ready.config.cache
        with ready.fabric.autocast():
            cached, said = install(
                live,
                Plan(c.views, c.dtype, {}, _signs(scheme), c.dir),
                _pictures(ready),
                data=ready.splits.train,
                fingerprint=ready.splits.fingerprint,
                views=ready.views,
                precision=str(ready.fabric.strategy.precision.precision),
                name=label(teacher) if teacher else "teacher",
            )
        scheme.nets["teacher"] = cached
        put.append(cached)
        lines += said
    return put, lines


def _taught(ready: Ready, schemes: Iterable[Scheme | SpotAdaptive]) -> list[tuple[Scheme, Frozen]]:
    """The schemes whose teacher is asked, where the user wants its answers kept, and can have that."""
    found: list[tuple[Scheme, Frozen]] = []
    for scheme in schemes if ready.config.cache.on else ():
        reason = None if type(scheme) is Scheme else REFUSALS["routes"]
        if second_of(ready.config, ready.splits) is not None:
            reason = "a method compares two views of each picture, and only one is kept"
        if ready.fabric.world_size > 1:
            reason = "several processes cannot fill one cache yet"
        live = scheme.nets["teacher"] if reason is None and "teacher" in scheme.active else None
        if isinstance(live, Frozen) and isinstance(scheme, Scheme):
            reason = why_not(ready.splits.train, ready.views, live, _pictures(ready))
            found.append((scheme, live))
        if reason:
            raise ConfigError(f"the teacher's answers cannot be kept: {reason}", where="cache", hint="cache=false")
    return found


def _pictures(ready: Ready) -> torch.Tensor:
    return ready.example(min(8, len(ready.splits.train))).to(ready.fabric.device)


def _signs(scheme: Scheme) -> dict[str, str]:
    """Spots of which only signs are read."""
    reads = [(spot, isinstance(link.loss, AB)) for link in scheme.links if link.teacher for spot in link.at_t]
    return {spot: "signs" for spot, _ in reads if all(only for at, only in reads if at == spot)}
