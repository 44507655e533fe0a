"""Where stores stand: putting one in a teacher's place, what it will cost, looking through them and throwing them away."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from torch import Tensor

from potstill.cache.codec import Layout
from potstill.cache.key import key
from potstill.cache.net import Cached, check, why_not
from potstill.cache.store import Store, read_meta
from potstill.data.arrays import Data
from potstill.data.store import cache_root
from potstill.data.views import Views
from potstill.errors import ConfigError, MachineError, did_you_mean
from potstill.taps import Frozen, Tapped


@dataclass(frozen=True)
class Plan:
    """What a user wants to be kept.

    Attributes:
        views: M, the views of each sample that are shown in turn; the stream must have ``cycle=views``.
        dtype: how logits are packed: ``float16``, ``int8``, ``topk``, ``float32``; see :class:`Layout`.
        settings: of that, such as ``k`` and ``temperature``.
        others: how other spots are packed, by spot.
        folder: of all stores; by default that of the user (``$POTSTILL_CACHE``).
    """

    views: int = 1
    dtype: str = "float16"
    settings: Mapping[str, Any] = field(default_factory=dict)
    others: Mapping[str, str] = field(default_factory=dict)
    folder: str | os.PathLike[str] | None = None


def install(
    live: Frozen,
    plan: Plan,
    x: Tensor,
    *,
    data: Data,
    fingerprint: str,
    views: Views | None,
    precision: str = "32",
    routes: bool = False,
    name: str = "teacher",
    given: Tapped | None = None,
) -> tuple[Cached, list[str]]:
    """What takes the place of a frozen teacher in a scheme, and lines that say so. Records that are there are checked.

    Args:
        live: the teacher, as it will run: folded and bf16 already, where it shall be.
        x: a few pictures of the data, (B, C, H, W), 2 or more, on the teacher's device.
        data: the training pictures; ``fingerprint`` is that of all the data.
        views: the augmentation.
        precision: of the teacher's arithmetic; part of the key.
        routes: whether the scheme sends features of one net through layers of another.
        name: of the teacher, for people.
        given: the teacher as it was before it was made faster. The key is made of it: what is folded may be decided otherwise
            on another day.

    Raises:
        ConfigError: what the teacher says of these data cannot be kept: says why.
        MachineError: the disk is too small.
        ModelError: what is kept is not what the teacher says.
    """
    if reason := why_not(data, views, live, x, routes):
        raise ConfigError(f"the teacher's answers cannot be kept: {reason}", where="cache", hint="cache=false")
    assert isinstance(live.net, Tapped)
    said = live(x)
    layout = Layout.of(said, plan.dtype, plan.others, **plan.settings)
    made, parts = key(given or live.net, layout, data=fingerprint, views=views, cycle=plan.views, precision=precision)
    shelf = Shelf(plan.folder)
    store = Store(shelf.root / made, data.ids, plan.views, layout.nbytes, parts, about={"teacher": name})
    cached = Cached(store, layout, live)
    lost = ", ".join(f"{spot} {loss:.1e}" for spot, loss in layout.errors(said).items() if loss)
    done = 1 - store.left / max(len(store.sums), 1)
    lines = [
        f"cache    {made}: {plan.views} view(s) of {len(data):,} pictures, {size(layout.nbytes)} each, "
        f"{size(store.sums.nbytes + store.records.nbytes)}; {100 * done:.0f} % there"
    ]
    if lost:
        lines.append(f"         packing loses (logits: KL at T = 4; others: relative): {lost}")
    if checked := check(cached, data, views):
        lines.append(f"         {checked:,} of its records are what the teacher says now")
    return cached, lines


def estimate(layout: Layout, samples: int, views: int, epochs: int) -> tuple[int, float]:
    """Bytes of a store, and the share of the teacher's work that it saves a run of so many epochs that begins without it."""
    return (layout.nbytes + 8) * samples * views, max(0.0, 1 - views / epochs)


def size(n: float) -> str:
    """104 -> ``104 B``; 18720000 -> ``18.7 MB``."""
    for unit in ("B", "kB", "MB", "GB"):
        if n < 1000:
            return f"{n:.3g} {unit}"
        n /= 1000
    return f"{n:.3g} TB"


class Shelf:
    """All stores of a user.

    Args:
        folder: by default ``$POTSTILL_CACHE``, see ``data.store.cache_root``.
    """

    def __init__(self, folder: str | os.PathLike[str] | None = None) -> None:
        self.root = cache_root(folder).parent / "answers"

    def names(self) -> list[str]:
        return sorted(p.parent.name for p in self.root.glob("*/meta.json"))

    def find(self, name: str) -> Path:
        """The folder of a store, by its name or the beginning of it.

        Raises:
            ConfigError: there is none, or several.
        """
        names = self.names()
        found = [n for n in names if n == name] or [n for n in names if name and n.startswith(name)]
        if len(found) != 1:
            what = (
                f"{len(found)} caches begin with {name!r}"
                if found
                else f"no cache {name!r}.{did_you_mean(name, names)}"
            )
            raise ConfigError(what, hint="potstill cache ls")
        return self.root / found[0]

    def rows(self) -> list[dict[str, Any]]:
        """One a store: name, teacher, spots, views, samples, bytes, the share that is there."""
        rows = []
        for name in self.names():
            store = Store.at(self.root / name)
            meta = read_meta(self.root / name) or {}
            packed = {spot: f["kind"] for spot, f in meta.get("layout", {}).items()}
            rows.append(
                {
                    "name": name,
                    "teacher": meta.get("about", {}).get("teacher", ""),
                    "spots": packed,
                    "views": store.views,
                    "samples": store.samples,
                    "bytes": store.records.nbytes + store.sums.nbytes,
                    "filled": 1 - store.left / max(len(store.sums), 1),
                    "finished": store.finished,
                }
            )
        return rows

    def remove(self, name: str) -> int:
        """Delete a store; the bytes that were freed.

        Raises:
            MachineError: a process writes to it.
        """
        folder = self.find(name)
        try:
            with FileLock(folder / ".writer.lock", timeout=0):
                freed = sum(p.stat().st_size for p in folder.iterdir())
                shutil.rmtree(folder)
        except Timeout:
            raise MachineError(f"a run writes to the cache {folder.name} at this moment", hint="wait for it") from None
        return freed
