"""What the teacher says of the training pictures, kept: whether it can be, what it will cost, and in a trial."""

from __future__ import annotations

import shutil
from collections.abc import Iterable

import torch
import torch.distributed as dist

from potstill.cache.net import CLOSE, REFUSALS, Cached
from potstill.cache.place import Place, Plan, estimate, place
from potstill.cache.shelf import Shelf, size
from potstill.card import label
from potstill.errors import ConfigError, MachineError
from potstill.meant import second_of
from potstill.models.net import Net
from potstill.pace import speed_of
from potstill.ready import Ready
from potstill.reduced import Reduced, prove
from potstill.schemes.scheme import Scheme
from potstill.schemes.spot_adaptive import SpotAdaptive
from potstill.taps import Frozen, Tapped

Schemes = Iterable[Scheme | SpotAdaptive]


def forecast(ready: Ready, schemes: Iterable[tuple[Scheme | SpotAdaptive, int]]) -> list[str]:
    """What the caches of a run will cost and bring, in lines; nothing is written. A finished one is verified, and put in its
    teacher's place at once.

    Args:
        schemes: on their device, each with its epochs in the whole run.

    Raises:
        ConfigError: the teacher's answers cannot be kept: says why.
        MachineError: the disk is too small.
        ModelError: what is kept is not what the teacher says.
    """
    c, epochs, lines = ready.config.cache, dict(schemes), list[str]()
    need = 0
    for scheme, live in taught(ready, epochs):
        at = ready.places[live.says] = _place(ready, scheme, live)
        if everywhere(ready, at.finished):
            lines += put(ready, scheme, live, at)
            lines.append("         the teacher does not run: all that is asked of it is kept")
            continue
        here, saved = at.nbytes, estimate(at.layout, at.records, at.left / len(at.data), epochs[scheme])[1]
        need += here * (at.left == at.records)
        why = "" if saved else f" ({c.views} views are no fewer than its {epochs[scheme]} epochs)"
        lines.append(
            f"cache    {c.views} views of {len(at.data):,} pictures, {size(at.layout.nbytes)} each "
            f"({', '.join(dict.fromkeys(spot.partition(':')[0] for spot in at.layout.fields))}): {size(here)}, "
            f"{100 - 100 * at.left / at.records:.0f} % there; saves {100 * saved:.0f} % of the teacher's work{why}"
        )
        if ready.fabric.world_size > 1:
            lines.append(
                f"         {ready.fabric.world_size} processes fill it together; machines that share no folder, one each"
            )
        if here > c.limit * 1e9:
            spots = ", ".join(f"{spot} {size(f.nbytes)}" for spot, f in at.layout.fields.items())
            fewer = "cache.views=1, " if c.views > 1 else ""
            raise _refused(
                f"that would take {size(here)}, allowed are {size(c.limit * 1e9)}; of each view of a picture {spots}",
                f"{fewer}a method that reads smaller spots, a larger cache.limit (GB), or cache=false",
            )
    _free(ready, epochs)
    root = Shelf(c.dir).root.parent
    if need and need > (free := shutil.disk_usage(root).free):
        raise MachineError(
            f"the cache needs {size(need)}, {size(free)} are free on the disk of {root}",
            hint="cache.views=1, cache.dtype=int8, another cache.dir, or cache=false",
        )
    return lines


def keep(ready: Ready, schemes: Schemes, teacher: Net | None) -> tuple[list[Cached], list[str]]:
    """Put caches in the places of the schemes' frozen teachers; they, to be closed at the end, and lines that say so."""
    caches, lines = list[Cached](), list[str]()
    for scheme, live in taught(ready, schemes):
        at = ready.places.get(live.says)
        known = at is not None  # verified by forecast if it was finished; what came since is of this teacher
        at = at or _place(ready, scheme, live)
        lines += put(ready, scheme, live, at, teacher, write=True, verify=not (known and at.finished))
        cached = scheme.nets["teacher"]
        assert isinstance(cached, Cached)
        cached.together = not everywhere(ready, not cached.store.writing) and ready.fabric.world_size > 1
        if not (cached.together or cached.store.writing or cached.store.finished):
            lines.append(
                "         another process fills it: this one reads what is there, and asks the teacher for the rest"
            )
        caches.append(cached)
    _free(ready, schemes)
    return caches, lines


def taught(ready: Ready, schemes: Schemes) -> list[tuple[Scheme, Reduced]]:
    """The schemes whose teacher is asked, where the user wants its answers kept, and that teacher as it is kept.

    Raises:
        ConfigError: that cannot be.
    """
    found: list[tuple[Scheme, Reduced]] = []
    for scheme in schemes if ready.config.cache.on else ():
        if not isinstance(scheme, Scheme):
            raise _refused(REFUSALS["routes"])
        if second_of(ready.config, ready.splits) is not None:
            raise _refused("a method compares two views of each picture, and only one is kept")
        live = scheme.nets["teacher"] if "teacher" in scheme.active else None
        if isinstance(live, Frozen):
            found.append((scheme, Reduced(live, scheme.links)))
    return found


def everywhere(ready: Ready, so: bool) -> bool:
    """Whether it is so in all processes. All of them must ask."""
    all_so = torch.tensor(int(so), device=ready.fabric.device)
    if ready.fabric.world_size > 1 and dist.is_available() and dist.is_initialized():
        dist.all_reduce(all_so, dist.ReduceOp.MIN)
    return bool(all_so)


def _free(ready: Ready, schemes: Schemes) -> None:
    """Take the teacher off the device where no scheme asks it any more."""
    nets = [scheme.nets["teacher"] for scheme in schemes if "teacher" in scheme.active]
    asked = [net for net in nets if not isinstance(net, Cached) or net.live is not None]
    if ready.teacher is not None and not asked:
        ready.teacher.module.cpu()


def _refused(reason: str, hint: str = "cache=false") -> ConfigError:
    return ConfigError(f"the teacher's answers cannot be kept: {reason}", where="cache", hint=hint)


def _place(ready: Ready, scheme: Scheme, live: Reduced) -> Place:
    """By the teacher as it was given: what made it faster, and how much it may change, is in the precision."""
    c, teacher, speed = ready.config.cache, ready.teacher, speed_of(ready)
    assert teacher is not None
    assert isinstance(live.net, Tapped)
    x = ready.example(min(8, len(ready.splits.train))).to(ready.fabric.device)
    with ready.fabric.autocast():
        prove(scheme, live, x)
        said = live(x)
        signs, turns = dict.fromkeys(live.packed(said, "signs"), "signs"), live.packed(said, "directions")
        return place(
            live,
            Plan(c.views, c.dtype, others=signs, folder=c.dir, turns=turns, about={"losses": live.words}),
            x,
            data=ready.splits.train,
            fingerprint=ready.splits.fingerprint,
            views=ready.views,
            precision=ready.fabric.strategy.precision.precision + ("" if speed == "exact" else f", {speed}"),
            given=Tapped(teacher.module, live.net.spots, teacher.preprocess, ready.teacher_order),
            reduced=live.reduced,
        )


def put(
    ready: Ready,
    scheme: Scheme,
    live: Reduced,
    at: Place,
    teacher: Net | None = None,
    write: bool = False,
    verify: bool = True,
    share: bool = False,
) -> list[str]:
    """Put the cache where the teacher stood; lines that say so. Arguments as of :meth:`Place.open`."""
    exact = speed_of(ready) != "fast" and ready.fabric.strategy.precision.precision == "32-true"
    with ready.fabric.autocast():
        scheme.nets["teacher"], lines = at.open(
            live,
            name=label(teacher) if teacher else "teacher",
            verify=verify,
            write=write,
            close=CLOSE if exact else 5 * CLOSE,  # bf16: a sample may be farther off than most
            share=share,
        )
    return lines
