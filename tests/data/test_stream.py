"""Streams: what comes in step s of epoch e is a function of (seed, e, s)."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

from potstill.data import ArrayData, Stream, Views
from potstill.errors import ConfigError, DataError
from potstill.types import Batch

from .test_counter import splitmix

VIEWS = Views(pad=2, flip=True, colour=0.2, erase=0.3, seed=5)


def data(n: int = 50, seed: int = 0) -> ArrayData:
    x = np.random.default_rng(seed).integers(0, 256, (n + 10, 3, 8, 8), dtype=np.uint8)
    return ArrayData(x, np.arange(n + 10) % 7, np.arange(n + 10) * 2).subset(np.arange(10, n + 10))


def same(a: Iterator[Batch], b: Iterator[Batch]) -> bool:
    a, b = list(a), list(b)
    return len(a) == len(b) > 0 and all(
        torch.equal(p, q) if isinstance(p, torch.Tensor) else p == q
        for s, t in zip(a, b, strict=True)
        for p, q in zip(s, t, strict=True)
    )


def ids(batches: Iterator[Batch]) -> list[int]:
    return [i for b in batches for i in b.ids.tolist()]


def test_an_epoch_has_every_picture_once_with_its_label() -> None:
    d = data()
    batches = list(Stream(d, 8, seed=1).epoch(0))
    assert [len(b.x) for b in batches] == [8] * 6 + [2]
    assert len(batches) == len(Stream(d, 8))
    assert sorted(ids(iter(batches))) == d.ids.tolist()
    for b in batches:
        assert b.x.dtype == torch.float32
        at = (b.ids // 2).numpy()
        assert torch.equal(b.x, torch.from_numpy(d.store[at]) / 255)
        assert torch.equal(b.y, torch.from_numpy(at % 7))
        assert b.views.tolist() == [0] * len(b.x)
        assert b.targets is None


def test_orders_are_new_each_epoch_and_seed() -> None:
    s = Stream(data(), 8, seed=1)
    assert ids(s.epoch(0)) == ids(Stream(data(), 8, seed=1).epoch(0))
    assert len({tuple(ids(s.epoch(e))) for e in range(5)}) == 5
    assert ids(s.epoch(0)) != ids(Stream(data(), 8, seed=2).epoch(0))
    assert next(s.epoch(3)).views.tolist() == [3] * 8


def test_without_shuffle_it_is_the_order_of_the_data() -> None:
    d = data()
    s = Stream(d, 8, shuffle=False)
    assert ids(s.epoch(0)) == ids(s.epoch(4)) == d.ids.tolist()


@pytest.mark.parametrize(
    ("n", "sizes"), [(17, [8, 9]), (16, [8, 8]), (18, [8, 8, 2]), (9, [9]), (8, [8]), (3, [3]), (1, [1])]
)
def test_a_last_batch_of_one_is_merged(n: int, sizes: list[int]) -> None:
    s = Stream(data(n), 8)
    assert [len(b.x) for b in s.epoch(0)] == sizes
    assert len(s) == len(sizes)


def test_steps_repeat_the_data_in_new_orders_and_views() -> None:
    d = data(20)
    s = Stream(d, 8, steps=6)  # 48 pictures: two passes and a bit
    assert len(s) == 6
    batches = list(s.epoch(0))
    assert [len(b.x) for b in batches] == [8] * 6
    seen, views = ids(iter(batches)), [v for b in batches for v in b.views.tolist()]
    assert sorted(seen[:20]) == sorted(seen[20:40]) == d.ids.tolist()
    assert seen[:20] != seen[20:40]
    assert views == [0] * 20 + [1] * 20 + [2] * 8
    later = [v for b in s.epoch(1) for v in b.views.tolist()]
    assert later == [3] * 20 + [4] * 20 + [5] * 8
    short = Stream(data(50), 8, steps=2)
    assert len(ids(short.epoch(0))) == 16
    assert {*next(short.epoch(3)).views.tolist()} == {3}


def test_a_labelled_few_fill_large_batches() -> None:
    s = Stream(data(5), 64, steps=3)
    assert [len(b.x) for b in s.epoch(0)] == [64] * 3


@pytest.mark.parametrize("kwargs", [{}, {"steps": 9}, {"shuffle": False}, {"views": VIEWS}])
@pytest.mark.parametrize("start", [0, 1, 4])
def test_resume_within_an_epoch(kwargs: dict[str, Any], start: int) -> None:
    s = Stream(data(), 8, seed=3, **kwargs)
    whole = list(s.epoch(2))
    assert same(Stream(data(), 8, seed=3, **kwargs).epoch(2, start), iter(whole[start:]))


def test_resume_at_the_end_gives_nothing() -> None:
    s = Stream(data(), 8, workers=0)
    assert list(s.epoch(0, len(s))) == []
    assert list(Stream(data(), 8, workers=2).epoch(0, len(s))) == []


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
def test_workers_change_nothing() -> None:
    d = data()
    alone = Stream(d, 8, seed=3, views=VIEWS)
    helped = Stream(d, 8, seed=3, views=VIEWS, workers=2)
    assert same(alone.epoch(1), helped.epoch(1))
    assert same(alone.epoch(1, 3), helped.epoch(1, 3))
    assert same(alone.epoch(0), Stream(d, 8, seed=3, views=VIEWS, workers=100).epoch(0))  # more than batches


def states() -> list[Any]:
    return [
        random.getstate(),
        np.random.get_state()[1].tolist(),
        np.random.get_state()[2],
        torch.get_rng_state().tolist(),
    ]  # type: ignore[index]


@pytest.mark.parametrize("workers", [0, 2])
def test_no_global_generator_is_read_or_moved(workers: int) -> None:
    s = Stream(
        data(),
        8,
        seed=3,
        views=Views(pad=2, flip=True, colour=0.2, erase=0.3, mixup=0.5, cutmix=0.5),
        workers=workers,
        num_classes=7,
    )
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    before = states()
    first = list(s.epoch(0))
    assert states() == before
    random.seed(2), np.random.seed(2), torch.manual_seed(2)
    assert same(s.epoch(0), iter(first))


def test_a_plain_loader_does_move_the_global_generator() -> None:
    """The trap is real: the test above can fail."""
    before = states()
    list(torch.utils.data.DataLoader(range(4), num_workers=0))  # type: ignore[arg-type]
    assert states() != before


@pytest.mark.parametrize("n", [50, 49, 41])
@pytest.mark.parametrize("world", [2, 3])
def test_ranks_share_each_batch(n: int, world: int) -> None:
    whole = list(Stream(data(n), 8, seed=1, views=VIEWS).epoch(1))
    parts = [list(Stream(data(n), 8, seed=1, views=VIEWS, rank=r, world=world).epoch(1)) for r in range(world)]
    assert len({len(p) for p in parts}) == 1
    for step, shares in enumerate(zip(*parts, strict=True)):
        assert len({len(b.x) for b in shares}) == 1
        assert len(shares[0].x) >= 2
        joined = torch.cat([b.ids for b in shares])
        if step + 1 < len(shares):
            assert torch.equal(joined, whole[step].ids[: len(joined)])
            assert len(whole[step].ids) - len(joined) < world
    seen = [i for p in parts for b in p for i in b.ids.tolist()]
    assert len({*seen}) == len(seen)
    assert len(seen) > n - world * len(parts[0])
    first = torch.cat([p[0].x for p in parts])
    assert torch.equal(first, whole[0].x[: len(first)])


def test_blending_gives_targets() -> None:
    s = Stream(data(), 8, views=Views(mixup=1.0), num_classes=7)
    for batch in s.epoch(0):
        assert batch.targets is not None
        assert batch.targets.shape == (len(batch.x), 7)
        assert torch.allclose(batch.targets.sum(1), torch.ones(len(batch.x)))
    with pytest.raises(ConfigError, match="num_classes"):
        Stream(data(), 8, views=Views(cutmix=1.0))


def test_views_reach_the_pictures() -> None:
    d = data()
    batch = next(Stream(d, 8, views=VIEWS).epoch(2))
    raw = torch.from_numpy(d.store[(batch.ids // 2).numpy()])
    assert torch.equal(batch.x, VIEWS(raw, batch.ids, torch.full((8,), 2)))
    assert not torch.equal(batch.x, raw / 255)


def test_resident_pictures_are_the_same() -> None:
    d = data()
    assert same(Stream(d, 8, views=VIEWS, resident=True).epoch(1, 2), Stream(d, 8, views=VIEWS).epoch(1, 2))
    assert not Stream(d, 8).resident


def test_labels_that_are_hidden_stay_so() -> None:
    d = data()
    hidden = d.relabelled(np.where(np.arange(50) < 10, d.labels, -1))
    y = torch.cat([b.y for b in Stream(hidden, 8).epoch(0)])
    assert (y >= 0).sum() == 10


def test_wrong_settings() -> None:
    for wrong in ({"batch_size": 0}, {"workers": -1}, {"steps": 0}, {"rank": 2, "world": 2}):
        with pytest.raises(ConfigError):
            Stream(data(), **{"batch_size": 8, **wrong})
    with pytest.raises(DataError, match="0 pictures"):
        Stream(data().subset([]), 8)
    with pytest.raises(DataError, match="3 pictures"):
        Stream(data(3), 8, rank=0, world=4)


def test_orders_are_fixed_over_versions() -> None:
    """A resumed run must see the same order whatever torch or numpy is installed: here it is made of Python's whole numbers."""
    got = ids(Stream(ArrayData(np.zeros((10, 1, 1, 1), np.uint8)), 4, seed=1).epoch(2))
    key = splitmix(splitmix(1) ^ 2)
    hashes = [splitmix(i ^ key) for i in range(10)]
    assert got == sorted(range(10), key=lambda i: hashes[i] - 2**64 * (hashes[i] >= 2**63))
    assert got == [6, 1, 4, 3, 0, 2, 9, 8, 7, 5]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("kwargs", [{}, {"resident": False}, {"resident": False, "workers": 2}])
def test_cuda(kwargs: dict[str, Any]) -> None:
    views = Views(pad=2, flip=True, erase=0.3)
    s = Stream(data(), 8, views=views, device="cuda", **kwargs)
    assert s.resident == (not kwargs)
    for here, there in zip(Stream(data(), 8, views=views).epoch(1), s.epoch(1), strict=True):
        assert there.x.is_cuda
        assert torch.equal(here.x, there.x.cpu())
        assert torch.equal(here.ids, there.ids.cpu())
        assert torch.equal(here.y, there.y.cpu())


def test_views_can_come_back_in_turn_in_new_orders() -> None:
    free, turns = Stream(data(), 8, seed=1, views=VIEWS), Stream(data(), 8, seed=1, views=VIEWS, cycle=3)
    assert [next(turns.epoch(e)).views.tolist() for e in range(5)] == [[v] * 8 for v in (0, 1, 2, 0, 1)]
    assert same(turns.epoch(2), free.epoch(2))
    assert ids(turns.epoch(3)) == ids(free.epoch(3)) != ids(turns.epoch(0))
    first, again = ({int(i): x for b in turns.epoch(e) for i, x in zip(b.ids, b.x, strict=True)} for e in (0, 3))
    assert all(torch.equal(first[i], again[i]) for i in first)
    with pytest.raises(ConfigError, match="cycle"):
        Stream(data(), 8, cycle=0)


def test_a_long_epoch_takes_the_views_in_turn_too() -> None:
    views = [v for b in Stream(data(), 25, steps=5, cycle=2).epoch(1) for v in b.views.tolist()]
    assert views == [1] * 50 + [0] * 50 + [1] * 25
