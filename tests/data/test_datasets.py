"""A user's own datasets: fixed ones go to the store, others stay live and can be replayed all the same."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import Dataset, TensorDataset

from potstill.data import ArrayData, Splits, Stream, load
from potstill.data.datasets import LiveData
from potstill.errors import ConfigError, DataError

from .conftest import noise


class Mine(Dataset[Any]):
    """``n`` pictures through ``make``, with ``classes`` classes."""

    def __init__(
        self, n: int = 60, make: Callable[[np.ndarray], Any] = lambda x: x, classes: int = 3, start: int = 0
    ) -> None:
        self.n, self.make, self.k, self.start = n, make, classes, start

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, i: int) -> tuple[Any, Any]:
        if i >= self.n:
            raise IndexError(i)
        return self.make(noise(self.start + i)), i % self.k


def tensor(x: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(x.transpose(2, 0, 1).copy())


def jitter(x: np.ndarray) -> torch.Tensor:
    """A transform that draws from all three global generators."""
    y = tensor(x).float() / 255
    return (
        (y * (0.5 + 0.5 * torch.rand(1)) * (1 - 0.2 * random.random()) * (1 - 0.2 * np.random.rand()))
        .clamp(0, 1)
        .float()
    )


@pytest.mark.parametrize("make", [lambda x: x, Image.fromarray, tensor, lambda x: tensor(x).numpy()])
def test_fixed_uint8_pictures_go_to_the_store(make: Callable[[np.ndarray], Any]) -> None:
    s = load(Mine(make=make))
    assert isinstance(s.train, ArrayData)
    assert (len(s.train), len(s.val), len(s.test)) == (48, 6, 6)
    assert s.classes == ["0", "1", "2"]
    assert s.source == "Mine"
    for part in (s.train, s.val, s.test):
        assert np.array_equal(part.labels, part.ids % 3)
        assert np.array_equal(part.images, np.stack([noise(i).transpose(2, 0, 1) for i in part.ids]))


def test_pairs_and_triples() -> None:
    s = load((Mine(30), Mine(12, start=100), Mine(9, start=200)))
    assert (len(s.train), len(s.val), len(s.test)) == (30, 12, 9)
    assert s.test.ids.tolist() == list(range(42, 51))
    assert s.num_samples == 30
    pair = load([Mine(30), Mine(12, start=100)])
    assert pair.test is pair.val
    assert any("no test data" in n for n in pair.notices)
    twin = load((Mine(30), Mine(12, start=20)))
    assert any("10 of 12 validation pictures are training pictures too" in n for n in twin.notices)
    same = load(s)
    assert same is s


def test_names_of_classes_and_targets_are_used() -> None:
    class Named(Mine):
        classes = ("ant", "bee", "cat")
        reads = 0

        @property
        def targets(self) -> list[int]:
            return [i % 3 for i in range(self.n)]

        def __getitem__(self, i: int) -> tuple[Any, Any]:
            Named.reads += 1
            return super().__getitem__(i)

    s = load(Named(500))
    assert s.classes == ["ant", "bee", "cat"]
    assert Named.reads < 500 + 3 * 32 + 5  # once for the pictures, and the probes


def test_targets_that_the_items_contradict_are_not_believed() -> None:
    class Shifted(Mine):
        targets = tuple([0] * 60)

    s = load(Shifted())
    assert np.array_equal(s.train.labels, s.train.ids % 3)


def test_size_and_channels_apply() -> None:
    assert load(Mine(make=Image.fromarray), size=6, channels=1).shape == (1, 6, 6)
    assert load(Mine(make=lambda x: x[..., 0])).shape == (1, 12, 12)


@pytest.mark.parametrize(
    "make", [jitter, lambda x: tensor(x).float() / 255, lambda x: Image.fromarray(x ^ np.uint8(random.getrandbits(1)))]
)
def test_other_pictures_stay_live(make: Callable[[np.ndarray], Any]) -> None:
    s = load(Mine(make=make))
    assert isinstance(s.train, LiveData)
    assert (len(s.train), len(s.val), len(s.test)) == (48, 6, 6)
    assert s.shape == (3, 12, 12)
    assert "fetched anew" in s.notices[0]
    assert np.array_equal(s.train.labels, s.train.ids % 3)
    batch = next(Stream(s.train, 8).epoch(0))
    assert batch.x.shape == (8, 3, 12, 12)
    assert batch.x.dtype == torch.float32
    assert batch.x.max() <= 1
    assert len(s.mean) == 3


def test_live_pictures_come_with_their_own_label_and_id() -> None:
    s = load((Mine(30, lambda x: tensor(x).float() / 255), Mine(12, lambda x: tensor(x).float() / 255, start=100)))
    for batch in Stream(s.train.subset([5, 17, 3]), 2, shuffle=False).epoch(0):
        for x, i, y in zip(batch.x, batch.ids.tolist(), batch.y.tolist(), strict=True):
            assert torch.allclose(x, tensor(noise(i)) / 255)
            assert y == i % 3
    assert s.val.ids.tolist() == list(range(30, 42))
    few = load(Mine(make=lambda x: tensor(x).float() / 255), labels=6)
    assert sum(int((b.y >= 0).sum()) for b in Stream(few.train, 8).epoch(0)) == 6


def states() -> tuple[Any, ...]:
    return (
        random.getstate(),
        np.random.get_state()[1].tolist(),
        np.random.get_state()[2],
        torch.get_rng_state().tolist(),
    )  # type: ignore[index]


@pytest.mark.parametrize("workers", [0, 2])
def test_random_transforms_are_replayed_and_touch_no_global_generator(workers: int) -> None:
    s = load(Mine(make=jitter))
    stream = Stream(s.train, 8, seed=3, workers=workers)
    before = states()
    first = [b.x for b in stream.epoch(1)]
    assert states() == before
    random.seed(7), np.random.seed(7), torch.manual_seed(7)
    again = [b.x for b in Stream(s.train, 8, seed=3).epoch(1, start=2)]
    assert len(again) == 4
    assert all(map(torch.equal, again, first[2:]))
    assert not torch.equal(next(stream.epoch(2)).x, first[0])


def test_normalised_pictures_are_remarked() -> None:
    s = load(Mine(make=lambda x: tensor(x).float() / 64 - 2))
    assert any("leave Normalize out" in n for n in s.notices)
    assert not any("Normalize" in n for n in load(Mine(make=lambda x: tensor(x).float() / 255)).notices)


def test_pictures_of_different_sizes() -> None:
    def cut(x: np.ndarray) -> Any:
        return tensor(x[: 6 + int(x[0, 0, 0]) % 3]).float() / 255

    with pytest.raises(DataError, match="items of the dataset differ"):
        next(Stream(load(Mine(make=cut)).train, 32).epoch(0))
    with pytest.raises(DataError, match="differ in size"):
        load(Mine(make=lambda x: x[: 6 + int(x[0, 0, 0]) % 3]))


def test_a_dataset_that_gives_one_buffer_again_and_again() -> None:
    class Reuse(Mine):
        buffer = np.zeros((12, 12, 3), np.uint8)

        def __getitem__(self, i: int) -> tuple[Any, Any]:
            self.buffer[:] = noise(i)
            return self.make(self.buffer), i % 3

    s = load(Reuse())
    assert np.array_equal(s.train.images, np.stack([noise(i).transpose(2, 0, 1) for i in s.train.ids]))
    live = load((Reuse(), Mine(9, lambda x: tensor(x).float())))
    assert np.array_equal(live.train.pictures([3, 4]), np.stack([noise(i).transpose(2, 0, 1) for i in (3, 4)]))


def test_live_grey_pictures_have_one_channel() -> None:
    live = load(Mine(make=lambda x: Image.fromarray(x[..., 0] ^ np.uint8(random.getrandbits(1)))))
    assert isinstance(live.train, LiveData)
    assert live.shape == (1, 12, 12)
    assert load(Mine(make=lambda x: Image.fromarray(x ^ np.uint8(random.getrandbits(1)))), size=6).shape == (3, 6, 6)
    with pytest.raises(DataError, match="resize them in its transform"):
        load(Mine(make=jitter), size=6)


def test_wrong_items() -> None:
    with pytest.raises(DataError, match=r"item 0 of .* is Tensor, expected a pair"):
        load(torch.zeros(8, 3, 4, 4))
    with pytest.raises(DataError, match=r"0\.5.*is not a class"):
        load(TensorDataset(torch.zeros(20, 3, 4, 4, dtype=torch.uint8), torch.full((20,), 0.5)))
    with pytest.raises(DataError, match="is empty"):
        load(Mine(0))
    with pytest.raises(ConfigError, match="got int"):
        load(3)
    with pytest.raises(DataError, match=r"too few|two classes"):
        load(Mine(40, classes=1))


def test_tensor_dataset_as_torch_has_it(tmp_path: Path) -> None:
    x = torch.randint(0, 256, (50, 3, 8, 8), dtype=torch.uint8)
    s: Splits = load(TensorDataset(x, torch.arange(50) % 5), cache_dir=tmp_path)
    assert np.array_equal(s.train.images, x.numpy()[s.train.ids])
    again = load(TensorDataset(x, torch.arange(50) % 5), cache_dir=tmp_path)
    assert again.fingerprint == s.fingerprint
    assert len([p for p in (tmp_path / "data").iterdir() if p.is_dir()]) == 1
