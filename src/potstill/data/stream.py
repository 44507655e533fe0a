"""Streams of batches: what comes in step s of epoch e is a function of (seed, e, s), with any number of workers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import cached_property
from itertools import repeat

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from potstill.data import counter
from potstill.data.arrays import ArrayData, Data
from potstill.data.views import Views, to_float
from potstill.errors import ConfigError, DataError
from potstill.types import Batch

RESIDENT = 2**30
"""Data with fewer bytes are kept on a CUDA device."""


class Stream:
    """Batches of a split, epoch by epoch.

    No global generator is read or moved, by any number of workers: dropout and the like see the same numbers in a run that was
    resumed in the middle of an epoch.

    Args:
        data: a split.
        batch_size: pictures in a step, over all ranks. The last batch of an epoch is smaller; one of a single picture (a
            rank) is merged into the batch before it, since batch normalisation cannot train on it.
        seed: of the order.
        views: the augmentation; None gives the pictures as they are.
        shuffle: a new order each epoch; without it, that of the data.
        workers: processes that gather pictures; 0 gathers in the calling thread, which is faster where pictures lie in memory.
        steps: batches in an epoch, all full: the data are repeated in new orders and new views, or cut short. None: once
            through the data.
        rank, world: this process takes the rank-th of ``world`` equal parts of each batch; what cannot be shared equally is
            left out.
        num_classes: of the targets, where ``views`` blends pictures.
        device: where batches come to lie, and where views are computed.
        resident: keep all pictures on the device; None does so on CUDA below 1 GiB. Live datasets never are.
        second: another augmentation: each batch then also brings a second view of its samples by it, ``batch.second``.
        cycle: show the same so many views of each picture in turn (view 0 again after view ``cycle - 1``), so that a teacher's
            answers to them can be kept; the order is new each time all the same. None: always a new view.

    Raises:
        ConfigError: a setting out of range.
        DataError: no data, or fewer pictures than ranks.
    """

    def __init__(
        self,
        data: Data,
        batch_size: int,
        *,
        seed: int = 0,
        views: Views | None = None,
        shuffle: bool = True,
        workers: int = 0,
        steps: int | None = None,
        rank: int = 0,
        world: int = 1,
        num_classes: int | None = None,
        device: str | torch.device = "cpu",
        resident: bool | None = None,
        cycle: int | None = None,
        second: Views | None = None,
    ) -> None:
        least = min(batch_size, *(n for n in (steps, cycle) if n is not None), 1)
        if least < 1 or workers < 0 or not 0 <= rank < world:
            raise ConfigError(
                "batch_size, steps and cycle must be 1 or more, workers 0 or more, rank in [0, world); "
                f"got {batch_size=}, {steps=}, {cycle=}, {workers=}, {rank=}, {world=}"
            )
        if views is not None and views.blends and num_classes is None:
            raise ConfigError("mixup and cutmix need num_classes", where="views")
        if not len(data) or min(len(data) if steps is None else batch_size, batch_size) < world:
            raise DataError(f"{len(data)} pictures in batches of {batch_size} are too few for {world} rank(s)")
        self.data, self.batch_size, self.seed, self.views, self.shuffle = data, batch_size, seed, views, shuffle
        self.workers, self.steps, self.rank, self.world, self.num_classes = workers, steps, rank, world, num_classes
        self.device, self.cycle, self.second = torch.device(device), cycle, second
        if second is not None and (second.blends or (views is not None and views.blends)):
            raise ConfigError("mixup and cutmix do not go together with a second view", where="data.second")
        small = len(data) * int(np.prod(data.shape)) < RESIDENT
        wanted = small and self.device.type == "cuda" if resident is None else resident
        self.resident = wanted and isinstance(data, ArrayData)
        n, b = len(data), batch_size
        cuts = np.arange(0, n, b) if steps is None else np.arange(steps) * b
        if steps is None and len(cuts) > 1 and (n - cuts[-1]) // world < 2:
            cuts = cuts[:-1]
        self._cuts = np.append(cuts, n if steps is None else steps * b)

    def __len__(self) -> int:
        """Batches in an epoch."""
        return len(self._cuts) - 1

    def epoch(self, e: int, start: int = 0) -> Iterator[Batch]:
        """The batches of epoch ``e`` (from 0), from step ``start`` (from 0) on."""
        order, views = self._order(e)
        facts = self._to_device(
            torch.from_numpy(np.stack((self.data.labels[order], self.data.ids[order], views, order)))
        )
        plan = [self._part(a, b) for a, b in zip(self._cuts[start:], self._cuts[start + 1 :], strict=False)]
        gathered = repeat(None) if self.resident else self._gathered([order[p] for p in plan], e, start)
        for mine, pictures in zip(plan, gathered, strict=False):
            yield self._batch(pictures, *facts[:, mine])

    def _order(self, e: int) -> tuple[np.ndarray, np.ndarray]:
        """Places in the data and view numbers of a whole epoch."""
        n, total = len(self.data), int(self._cuts[-1])
        repeats = -(-total // n)
        numbers = range(e * repeats, (e + 1) * repeats)
        orders = [counter.permutation(n, self.seed, v).numpy() if self.shuffle else np.arange(n) for v in numbers]
        views = [v % self.cycle for v in numbers] if self.cycle else list(numbers)
        return np.concatenate(orders)[:total], np.repeat(views, n)[:total]

    def _part(self, a: int, b: int) -> slice:
        """This rank's part of the batch [a, b)."""
        share = (b - a) // self.world
        return slice(a + self.rank * share, a + (self.rank + 1) * share)

    def _gathered(self, plan: list[np.ndarray], e: int, start: int) -> Iterable[Tensor]:
        """The raw pictures of each batch."""
        jobs = [(at, counter.mix_int(self.seed, e, start + s, self.rank)) for s, at in enumerate(plan)]
        gather = _Gather(self.data)
        if not self.workers:
            return map(gather.__getitem__, jobs)
        own = torch.Generator().manual_seed(0)  # without it DataLoader draws a seed from the global generator
        return DataLoader(
            gather,
            batch_size=None,
            sampler=jobs,
            num_workers=min(self.workers, len(jobs)),
            generator=own,
            pin_memory=self.device.type == "cuda",
        )

    def _batch(self, pictures: Tensor | None, y: Tensor, ids: Tensor, views: Tensor, at: Tensor) -> Batch:
        x, targets = self._whole.index_select(0, at) if pictures is None else self._to_device(pictures), None
        second = None if self.second is None else self.second(x, ids, views)
        if self.views is None:
            x = to_float(x)
        else:
            x = self.views(x, ids, views)
            if self.views.blends:
                assert self.num_classes is not None  # held by __init__
                x, targets = self.views.blend(x, y, ids, views, self.num_classes)
        return Batch(x, y, ids, views, targets, second=second)

    @cached_property
    def _whole(self) -> Tensor:
        """All pictures, on the device."""
        return torch.from_numpy(self.data.pictures(np.arange(len(self.data)))).to(self.device)

    def _to_device(self, t: Tensor) -> Tensor:
        if self.device.type != "cuda" or t.is_cuda:
            return t.to(self.device)
        return (t if t.is_pinned() else t.pin_memory()).to(self.device, non_blocking=True)


class _Gather(Dataset[Tensor]):
    """Raw pictures of one batch, for this process or for a worker."""

    def __init__(self, data: Data) -> None:
        self.data = data

    def __getitem__(self, job: tuple[np.ndarray, int]) -> Tensor:
        return torch.from_numpy(self.data.pictures(*job))
