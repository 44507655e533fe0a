"""The place of one teacher's answers on a shelf: found by what they depend on, opened, and put where the teacher stood."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from potstill.cache.codec import Layout
from potstill.cache.files import read_meta
from potstill.cache.key import key
from potstill.cache.net import CLOSE, WAYS_OUT, Cached, check, why_not
from potstill.cache.shelf import Shelf, size
from potstill.cache.store import Store
from potstill.data.arrays import Data
from potstill.data.views import Views
from potstill.errors import ConfigError
from potstill.taps import Frozen, Tapped


@dataclass(frozen=True)
class Plan:
    """What a user wants to be kept.

    Attributes:
        views: M, the views of each sample that are shown in turn; the stream must have ``cycle=views``.
        dtype: how logits are packed: ``float16``, ``int8``, ``topk``, ``float32``; see :class:`Layout`.
        settings: of that, such as ``k`` and ``temperature``.
        others: how other spots are packed, by spot.
        turns: names of what may have the other sign another time: singular vectors.
        about: more that people should know of the store.
        folder: of all stores; by default that of the user (``$POTSTILL_CACHE``).
    """

    views: int = 1
    dtype: str = "float16"
    settings: Mapping[str, Any] = field(default_factory=dict)
    others: Mapping[str, str] = field(default_factory=dict)
    folder: str | os.PathLike[str] | None = None
    turns: Collection[str] = ()
    about: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Place:
    """Where the answers of a teacher to data lie, and how.

    Attributes:
        folder: of the store; its name is the key.
        parts: what the key was made of.
        data, views: the training pictures and their augmentation.
        lost: what packing loses, by spot; see :meth:`Layout.errors`.
    """

    folder: Path
    parts: Mapping[str, Any]
    layout: Layout
    plan: Plan
    data: Data
    views: Views | None
    lost: Mapping[str, float]

    @property
    def finished(self) -> bool:
        """Whether every record is there: then the teacher need not run."""
        return bool((meta := read_meta(self.folder)) and meta["finished"])

    @property
    def records(self) -> int:
        return self.plan.views * len(self.data)

    @property
    def nbytes(self) -> int:
        """Of the whole store."""
        return (self.layout.nbytes + 8) * self.records

    @property
    def left(self) -> int:
        """Records that are not there yet."""
        return self.records if read_meta(self.folder) is None else Store.at(self.folder).left

    def open(
        self,
        live: Frozen,
        *,
        name: str = "teacher",
        verify: bool = True,
        write: bool = True,
        close: float = CLOSE,
        share: bool = False,
    ) -> tuple[Cached, list[str]]:
        """What takes the teacher's place, and lines that say so.

        Args:
            live: the teacher as it runs. Of a finished store it is asked about the records that are verified, and no more.
            name: of it, for people.
            verify: whether to hold 1 % of the records against what it says now.
            write: whether to fill gaps, if no other process does.
            close: how far a record may be from what is said now (relative).
            share: whether to fill it part by part, beside other processes; see :meth:`Store.claim`.

        Raises:
            ConfigError, MachineError: see :class:`Store`.
            ModelError: what is kept is not what the teacher says.
        """
        about, n = {"teacher": name, **self.plan.about}, self.layout.nbytes
        store = Store(self.folder, self.data.ids, self.plan.views, n, dict(self.parts), write, about, share)
        there = 1 - store.left / max(self.records, 1)
        lines = [
            f"cache    {self.folder.name}: {self.plan.views} view(s) of {len(self.data):,} pictures, "
            f"{size(self.layout.nbytes)} each, {size(self.nbytes)}; {100 * there:.0f} % there"
        ]
        if lost := ", ".join(f"{spot} {loss:.1e}" for spot, loss in self.lost.items() if loss):
            lines.append(f"         packing loses (logits: KL at T = 4; others: relative): {lost}")
        cached = Cached(store, self.layout, live)
        try:
            if verify and (n := check(cached, self.data, self.views, close=close, turns=self.plan.turns)):
                lines.append(f"         {n:,} of its records are what the teacher says now")
        except BaseException:
            store.close()
            raise
        return (Cached(store, self.layout, None) if store.finished else cached), lines


def place(
    live: Frozen,
    plan: Plan,
    x: Tensor,
    *,
    data: Data,
    fingerprint: str,
    views: Views | None,
    precision: str = "32",
    routes: bool = False,
    given: Tapped | None = None,
    reduced: Sequence[str] = (),
) -> Place:
    """Where the answers of a teacher belong; nothing is written.

    Args:
        live: the teacher.
        x: a few pictures of the data, (B, C, H, W), 2 or more, on the teacher's device.
        data: the training pictures; ``fingerprint`` is that of all the data.
        views: the augmentation.
        precision: of the teacher's arithmetic; part of the key.
        routes: whether the scheme sends features of one net through layers of another.
        given: the teacher as it was before it was made faster. The key is made of it: what is folded may be decided otherwise
            on another day.
        reduced: how losses reduce what the teacher says, where they do, for the key.

    Raises:
        ConfigError: what the teacher says of these data cannot be kept: says why.
    """
    if reason := why_not(data, views, live, x, routes, plan.turns):
        hint = WAYS_OUT.get(reason, "cache=false")
        raise ConfigError(f"the teacher's answers cannot be kept: {reason}", where="cache", hint=hint)
    assert isinstance(live.net, Tapped)
    said = live(x)
    layout = Layout.of(said, plan.dtype, plan.others, **plan.settings)
    made, parts = key(
        given or live.net,
        layout,
        data=fingerprint,
        views=views,
        cycle=plan.views,
        precision=precision,
        reduced=reduced,
    )
    return Place(Shelf(plan.folder).root / made, parts, layout, plan, data, views, layout.errors(said))


def install(live: Frozen, plan: Plan, x: Tensor, *, name: str = "teacher", **facts: Any) -> tuple[Cached, list[str]]:
    """:func:`place` and :meth:`Place.open` in one: what takes a frozen teacher's place in a scheme, and lines that say so."""
    return place(live, plan, x, **facts).open(live, name=name)


def estimate(layout: Layout, samples: int, views: float, epochs: int) -> tuple[float, float]:
    """Bytes of a store, and the share of the teacher's work that it saves a run of so many epochs that begins without it."""
    return (layout.nbytes + 8) * samples * views, max(0.0, 1 - views / epochs)


def fill(
    cached: Cached, live: Frozen, data: Data, views: Views | None, batch: int, on_batch: Callable[[], None]
) -> int:
    """Ask the teacher about the records that are not there, part by part, until the store is finished or other processes fill
    all that is left; how many it was asked about.

    Args:
        batch: pictures at a time.
        on_batch: called after each; what it raises ends the filling.
    """
    store, asked = cached.store, 0
    while store.claim():
        for rows in store.gaps(batch):
            store.write(rows, cached.layout.encode(live(cached.pictures(rows, data, views))).cpu().numpy())
            asked += len(rows)
            on_batch()
    return asked
