"""The cached teacher: the same training as with the live one, without asking it again."""

from __future__ import annotations

import copy
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from potstill.cache import Cached, Layout, Store, check, key, why_not
from potstill.data import ArrayData, Stream, Views
from potstill.data.datasets import LiveData
from potstill.errors import ConfigError, DataError, ModelError
from potstill.losses import CE, KD, FitNet
from potstill.schemes import Link, Scheme, offline, total
from potstill.taps import Frozen, Tapped

VIEWS = Views(pad=1, flip=True, seed=3)
N = 20


class Small(nn.Module):
    def __init__(self, width: int, drop: float = 0.0, batch_stats: bool = False) -> None:
        super().__init__()
        self.a = nn.Sequential(
            nn.Conv2d(3, width, 3, padding=1), nn.BatchNorm2d(width, track_running_stats=not batch_stats)
        )
        self.act, self.fc, self.drop = nn.ReLU(), nn.Linear(width, 5), drop

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        z = self.act(self.a(x)).mean((2, 3))
        return self.fc(nn.functional.dropout(z, self.drop) if self.drop else z)


def data(seed: int = 0) -> ArrayData:
    x = np.random.default_rng(seed).integers(0, 256, (N + 5, 3, 8, 8), dtype=np.uint8)
    return ArrayData(x, np.arange(N + 5) % 5, np.arange(N + 5) * 3).subset(np.arange(5, N + 5))


def teacher(seed: int = 1, **kwargs: Any) -> Small:
    torch.manual_seed(seed)
    return Small(6, **kwargs)


def scheme(student_seed: int = 2) -> Scheme:
    torch.manual_seed(student_seed)
    links = [Link(CE(), 0.1, teacher=None), Link(KD(4.0), 0.9), Link(FitNet((4, 8, 8), (6, 8, 8)), 0.5, at="a")]
    return offline(Small(4), teacher(), links)


def cache(folder: Path, live: Frozen, kind: str = "float16", cycle: int = 2, keep: bool = True) -> Cached:
    d = data()
    said = live(torch.rand(2, 3, 8, 8))
    layout = Layout.of(said, kind)
    name, parts = key(live.net, layout, data=d.content, views=VIEWS, cycle=cycle, precision="32")
    return Cached(Store(folder / name, d.ids, cycle, layout.nbytes, parts), layout, live if keep else None)


def train(s: Scheme, epochs: range, steps: int = 100, cycle: int = 2) -> list[torch.Tensor]:
    optimizer = torch.optim.SGD(s.parameters(), 0.05)
    for e in epochs:
        for batch in list(Stream(data(), 8, seed=4, views=VIEWS, cycle=cycle).epoch(e))[:steps]:
            total(s(batch)).backward()
            optimizer.step()
            optimizer.zero_grad()
    return [p.detach().clone() for p in s.parameters()]


class Deaf(nn.Module):
    def forward(self, x: torch.Tensor) -> Any:
        raise AssertionError("the live teacher was asked")


@pytest.mark.parametrize(("kind", "bound"), [("float32", 0.0), ("float16", 1e-4)])
def test_a_cache_that_fills_gives_the_same_training_and_asks_once(tmp_path: Path, kind: str, bound: float) -> None:
    live, cached = scheme(), scheme()
    net = cache(tmp_path, live.nets["teacher"], kind)  # type: ignore[arg-type]
    cached.nets["teacher"] = net
    assert cached.state_dict().keys() == live.state_dict().keys()
    wanted, got = train(live, range(4)), train(cached, range(4))
    for a, b in zip(wanted, got, strict=True):
        assert (a - b).abs().max() <= bound * a.abs().max()
    assert net.asked == 2 * N
    assert net.store.finished
    object.__setattr__(net, "live", Deaf())
    train(cached, range(4, 6))


def test_a_finished_cache_needs_no_teacher_and_gives_the_same_bits(tmp_path: Path) -> None:
    first, second = scheme(), scheme()
    first.nets["teacher"] = cache(tmp_path, first.nets["teacher"])  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="gaps"):
        cache(tmp_path, second.nets["teacher"], keep=False)  # type: ignore[arg-type]
    wanted = train(first, range(3))
    second.nets["teacher"] = cache(tmp_path, second.nets["teacher"], keep=False)  # type: ignore[arg-type]
    assert all(torch.equal(a, b) for a, b in zip(wanted, train(second, range(3)), strict=True))


def test_a_run_that_stops_in_the_middle_of_filling_goes_on_with_the_same_bits(tmp_path: Path) -> None:
    whole, cut = scheme(), scheme()
    whole.nets["teacher"] = cache(tmp_path / "a", whole.nets["teacher"])  # type: ignore[arg-type]
    wanted = train(whole, range(3))
    net = cache(tmp_path / "b", cut.nets["teacher"])  # type: ignore[arg-type]
    cut.nets["teacher"] = net
    train(cut, range(1), steps=2)
    net.store.sums[net.store.rows(data().ids[:4], np.zeros(4, int))] = 0  # parts of batches are missing
    net.store.close()
    again = scheme()
    net = cache(tmp_path / "b", again.nets["teacher"])  # type: ignore[arg-type]
    again.nets["teacher"] = net
    assert 0 < net.store.left < 2 * N
    assert all(torch.equal(a, b) for a, b in zip(wanted, train(again, range(3)), strict=True))
    assert net.store.finished


def test_two_processes_read_the_same_answers(tmp_path: Path) -> None:
    s = scheme()
    net = cache(tmp_path, s.nets["teacher"])  # type: ignore[arg-type]
    s.nets["teacher"] = net
    train(s, range(2))
    batch = next(Stream(data(), 8, views=VIEWS, cycle=2).epoch(1))
    torch.save(net(batch), tmp_path / "mine.pt")
    code = f"""
import sys, torch
sys.path.insert(0, {str(Path(__file__).parents[2])!r})
from pathlib import Path
from tests.cache.test_net import *
folder = Path({str(tmp_path)!r})
net = cache(folder, scheme().nets["teacher"], keep=False)
said, mine = net(next(Stream(data(), 8, views=VIEWS, cycle=2).epoch(1))), torch.load(folder / "mine.pt")
assert said.keys() == mine.keys() and all(torch.equal(said[k], mine[k]) for k in mine)
"""
    both = [subprocess.Popen([sys.executable, "-c", code]) for _ in range(2)]
    assert [p.wait(60) for p in both] == [0, 0]


def test_another_teacher_has_another_store_and_a_false_one_is_found_out(tmp_path: Path) -> None:
    s = scheme()
    net = cache(tmp_path, s.nets["teacher"])  # type: ignore[arg-type]
    assert check(net, data(), VIEWS) == 0
    s.nets["teacher"] = net
    train(s, range(2))
    assert check(net, data(), VIEWS, share=1.0) == 2 * N
    spots = ["a"]
    other = Frozen(Tapped(teacher(9), spots))
    assert cache(tmp_path, other).store.folder != net.store.folder
    false = Cached(net.store, net.layout, other)
    with pytest.raises(ModelError, match="not of this teacher"):
        check(false, data(), VIEWS)
    with pytest.raises(ModelError, match="not of this teacher"):
        check(net, data(), Views(pad=1, flip=True, seed=4))
    with pytest.raises(ModelError, match="not of this teacher"):
        check(net, data(1), VIEWS)


def test_signs_are_checked_by_their_share(tmp_path: Path) -> None:
    live = Frozen(Tapped(teacher(), ["a"]))
    layout = Layout.of(live(torch.rand(2, 3, 8, 8)), "float16", {"a": "signs"})
    net = Cached(Store(tmp_path / "s", data().ids, 1, layout.nbytes, {}), layout, live)
    for batch in Stream(data(), 8, views=VIEWS, cycle=1).epoch(0):
        net(batch)
    slightly, other = copy.deepcopy(live), copy.deepcopy(live)
    slightly.net.net.a[1].bias.data += 1e-3
    other.net.net.a[1].bias.data += 1.0
    assert check(Cached(net.store, layout, slightly), data(), VIEWS, share=1.0) == N
    with pytest.raises(ModelError, match="'a'"):
        check(Cached(net.store, layout, other), data(), VIEWS, share=1.0)


@pytest.mark.parametrize("turns", [["a"], []])
def test_what_is_turned_round_is_the_same_where_it_may_turn(turns: list[str], tmp_path: Path) -> None:
    class Turned(Frozen):
        def forward(self, x: Any) -> Any:
            said = super().forward(x)
            return {**said, "a": -said["a"]}

    live = Frozen(Tapped(teacher(), ["a"]))
    layout = Layout.of(live(torch.rand(2, 3, 8, 8)), "float16")
    net = Cached(Store(tmp_path / "s", data().ids, 1, layout.nbytes, {}), layout, live)
    for batch in Stream(data(), 8, views=VIEWS, cycle=1).epoch(0):
        net(batch)
    turned = Cached(net.store, layout, Turned(live.net))
    if turns:
        assert check(turned, data(), VIEWS, share=1.0, turns=turns) == N
    else:
        with pytest.raises(ModelError, match="'a'"):
            check(turned, data(), VIEWS, share=1.0)


def test_views_beyond_the_store_and_blended_pictures_are_refused(tmp_path: Path) -> None:
    net = cache(tmp_path, Frozen(Tapped(teacher(), ["a"])))
    batch = next(Stream(data(), 8, views=VIEWS).epoch(2))
    with pytest.raises(DataError, match="view 2"):
        net(batch)
    with pytest.raises(ConfigError, match="mixup"):
        net(batch._replace(views=batch.views % 2, targets=torch.zeros(8, 5)))


def test_what_cannot_be_kept_is_said() -> None:
    x, d = torch.rand(6, 3, 8, 8), data()
    assert why_not(d, VIEWS, Frozen(Tapped(teacher())), x) is None
    assert "blend" in str(why_not(d, Views(mixup=0.2)))
    assert "blend" in str(why_not(d, Views(cutmix=1.0)))
    assert "spot-adaptive" in str(why_not(d, VIEWS, routes=True))
    assert "dropout" in str(why_not(d, VIEWS, Frozen(Tapped(teacher(drop=0.5))), x))
    assert "batch" in str(why_not(d, VIEWS, Frozen(Tapped(teacher(batch_stats=True))), x))
    live = LiveData([(torch.zeros(3, 8, 8), 0)] * 4, np.zeros(4, int), np.arange(4))
    assert "random" in str(why_not(live, VIEWS))
