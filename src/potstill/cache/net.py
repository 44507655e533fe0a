"""A teacher whose answers come from a store; the live one is asked for what is not there yet."""

from __future__ import annotations

from collections.abc import Callable, Collection

import numpy as np
import torch
from torch import Tensor, nn

from potstill.cache.codec import Layout
from potstill.cache.exchange import exchange
from potstill.cache.store import Store
from potstill.data.arrays import ArrayData, Data
from potstill.data.views import Views, to_float
from potstill.errors import ConfigError, DataError, ModelError
from potstill.taps import Frozen
from potstill.types import Batch, Out

CLOSE = 1e-2
"""How far (relative L2 of a sample; of signs the share) a record may be from what the teacher says now: between the rounding
of another kernel or batch size (bf16: below 7e-3) and another teacher (near 1)."""
SHARE = 0.01


class Cached(nn.Module):
    """Takes the place of a :class:`potstill.taps.Frozen` teacher in a scheme: it answers a batch with the same ``Out``.

    What it gives was packed and unpacked also where the live teacher was just asked, so that a run which is interrupted and goes
    on sees the same numbers as one that is not.

    Args:
        store: where the answers lie.
        layout: how they are packed.
        live: the teacher; may be None when the store is finished.

    Attributes:
        together: whether several processes train in step and fill their stores together: each asks about its own samples, and
            whichever of them writes puts the answers of all to its store. It ends when nobody writes any more.

    Raises:
        ConfigError: the store has gaps and there is no live teacher.
    """

    wants_batch = True
    live: Frozen | None

    def __init__(self, store: Store, layout: Layout, live: Frozen | None) -> None:
        super().__init__()
        if live is None and not store.finished:
            raise ConfigError(f"the cache {store.folder} has gaps: it needs its teacher", hint="potstill cache build")
        self.store, self.layout = store, layout
        object.__setattr__(self, "live", live)
        self.asked, self.together = 0, False

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Cached:
        if self.live is not None:
            self.live._apply(fn)
        return self

    @torch.no_grad()
    def forward(self, batch: Batch) -> Out:
        """What the teacher says about the batch; batches that it was not asked about before are put into the store.

        Raises:
            ConfigError: the pictures of the batch are blended: no record is of them.
            DataError: a sample or view that the store has no place for, or a damaged record.
        """
        if batch.targets is not None:
            raise ConfigError(REFUSALS["blend"], hint=WAYS_OUT[REFUSALS["blend"]])
        rows = self.store.rows(batch.ids.cpu().numpy(), batch.views.cpu().numpy())
        records, there = self.store.read(rows)
        if self.together or not there.all():
            self._fill(batch, rows, records, np.flatnonzero(~there))
        return self.layout.decode(torch.from_numpy(records).to(batch.x.device))

    def _fill(self, batch: Batch, rows: np.ndarray, records: np.ndarray, gaps: np.ndarray) -> None:
        """Ask about the batch where records are not there, and put them to the others and to the store."""
        if len(gaps):
            if self.live is None:
                raise DataError(f"the cache {self.store.folder} has gaps", hint="potstill cache verify")
            self.asked += len(rows)  # all of them: a part would be rounded otherwise than the whole batch
            records[gaps] = self.layout.encode(self.live(batch.x)).cpu().numpy()[gaps]
        at, new = rows[gaps], records[gaps]
        if self.together:
            at, new, self.together = exchange(at, new, self.store.writing, batch.x.device)
        self.store.write(at, new)

    def pictures(self, rows: np.ndarray, data: Data, views: Views | None) -> Tensor:
        """The pictures that the records are of, (B, C, H, W), as a net sees them, on the teacher's device."""
        assert self.live is not None
        view, ids = rows // self.store.samples, self.store.id_at[rows % self.store.samples]
        where = np.full(len(self.store.places), -1)
        where[data.ids] = np.arange(len(data))
        device = next((p.device for p in self.live.net.parameters()), torch.device("cpu"))
        x = torch.from_numpy(data.pictures(where[ids])).to(device)
        return to_float(x) if views is None else views(x, *(torch.from_numpy(a).to(device) for a in (ids, view)))


REFUSALS = {
    "blend": "mixup and cutmix blend pictures of a batch: what the teacher says of them belongs to no sample alone",
    "live": "this dataset draws its items at random: the same sample and view are not the same picture twice",
    "routes": "spot-adaptive distillation runs the teacher's layers on the student's features: there is nothing to keep",
    "random": "the teacher answers the same pictures differently twice (dropout that is on in eval mode?)",
    "batch": "the teacher's answer to a picture depends on the others in its batch (a norm without running statistics?)",
}

WAYS_OUT = {
    REFUSALS["blend"]: "data.augment.mixup=0 data.augment.cutmix=0: crops, mirrors, colours and erasing can be kept, "
    "in cache.views views; or cache=false, and the teacher is asked at each step"
}
"""What to do about a refusal, where there is more to do than to go without a cache."""


def why_not(
    data: Data,
    views: Views | None,
    live: Frozen | None = None,
    x: Tensor | None = None,
    routes: bool = False,
    turns: Collection[str] = (),
) -> str | None:
    """Why what a teacher says of these data cannot be kept; None when it can.

    Args:
        live, x: the teacher and a few pictures (2 or more): it is asked twice, and once about half of them.
        routes: whether the scheme sends features of one net through layers of another.
        turns: names of what may have the other sign another time.
    """
    if routes:
        return REFUSALS["routes"]
    if views is not None and views.blends:
        return REFUSALS["blend"]
    if not isinstance(data, ArrayData):
        return REFUSALS["live"]
    if live is not None and x is not None:
        once, again, part = live(x), live(x), live(x[: len(x) // 2])
        if any(not torch.equal(once[spot], again[spot]) for spot in once):
            return REFUSALS["random"]
        if any(float(apart(once[spot][: len(x) // 2], part[spot], spot in turns).max()) > CLOSE for spot in once):
            return REFUSALS["batch"]
    return None


def check(
    cached: Cached,
    data: Data,
    views: Views | None,
    share: float = SHARE,
    batch: int = 256,
    close: float = CLOSE,
    turns: Collection[str] = (),
) -> int:
    """Hold a share of the records against what the live teacher says now; how many. None may be farther than ``close``.

    Args:
        turns: names of what may have the other sign another time.

    Raises:
        ModelError: they differ: the store is not of this teacher, these data or these views.
    """
    store, live = cached.store, cached.live
    if live is None:
        return 0
    filled = np.flatnonzero(store.filled(np.arange(len(store.sums))))
    n = min(len(filled), max(int(len(filled) * share), min(batch, 32)))
    if not n:
        return 0
    chosen = filled[np.linspace(0, len(filled) - 1, n).astype(np.int64)]
    for start in range(0, n, batch):
        rows = chosen[start : start + batch]
        x = cached.pictures(rows, data, views)
        records, there = store.read(rows)
        kept = cached.layout.decode(torch.from_numpy(records).to(x.device))
        now = cached.layout.decode(cached.layout.encode(live(x)))
        for spot in kept:
            each = apart(now[spot], kept[spot], spot in turns).where(torch.from_numpy(there).to(x.device), 0.0)
            far = float(each.max()) if cached.layout.fields[spot].kind != "signs" else float(each.max()) ** 2 / 4
            if not far <= close:
                whose = "this teacher" + (", or of another version of its loss," if ":" in spot else "")
                raise ModelError(
                    f"the cache {store.folder} is not of {whose}: at {spot!r} they differ by {far:.2g} (relative)",
                    hint=f"potstill cache rm {store.folder.name}",
                )
    return n


def apart(a: Tensor, b: Tensor, turns: bool = False) -> Tensor:
    """Relative L2 distance of each sample, (B,); ``turns``: up to the sign."""
    a, b = a.float().flatten(1), b.float().flatten(1)
    far = (a - b).norm(dim=1)
    return (far.minimum((a + b).norm(dim=1)) if turns else far) / a.norm(dim=1).clamp_min(1e-6)
