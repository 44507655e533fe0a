"""Numbers from nothing but their names."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from potstill.data import counter

M = 2**64 - 1


def splitmix(x: int) -> int:
    """The published step, on Python's whole numbers."""
    z = (x + 0x9E3779B97F4A7C15) & M
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & M
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & M
    return z ^ (z >> 31)


def test_mix_is_splitmix64() -> None:
    # the first outputs of the public generator with seed 1234567
    state, known = 1234567, [6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431]
    for i, value in enumerate(known):
        assert splitmix(state + i * 0x9E3779B97F4A7C15 & M) == value
    xs = [0, 1, -1, 2**63 - 1, -(2**63), 123456789, -987654321]
    ours = counter.mix(torch.tensor(xs)).tolist()
    assert [v & M for v in ours] == [splitmix(x & M) for x in xs]


def test_mix_int_is_mix_of_the_tensor() -> None:
    assert counter.mix_int(5) == counter.mix(torch.tensor([5])).item()
    assert counter.mix_int(1, 2) != counter.mix_int(2, 1)
    assert -(2**63) <= counter.mix_int(2**70, 3) < 2**63


def test_bits_depend_on_seed_id_view_and_name_only() -> None:
    ids, views = torch.arange(50), torch.arange(50) % 7
    names = ("a", "b", "c")
    all_ = counter.bits(3, ids, views, names)
    assert all_.shape == (3, 50)
    assert all_.min() >= 0
    assert all_.max() < 2**32
    order = torch.randperm(50)
    assert torch.equal(counter.bits(3, ids[order], views[order], ("c", "a")), all_[[2, 0]][:, order])
    for other in (
        counter.bits(4, ids, views, names),
        counter.bits(3, ids + 1, views, names),
        counter.bits(3, ids, views + 1, names),
        counter.bits(3, ids, views, ("d", "e", "f")),
    ):
        assert (other == all_).float().mean() < 0.01


def test_bits_are_uniform_and_independent() -> None:
    n = 200_000
    ids = torch.arange(n)
    u = counter.unit(counter.bits(0, ids, torch.zeros_like(ids), ("x", "y"))).double()
    assert u.min() >= 0
    assert u.max() < 1
    counts = torch.histc(u[0], 100, 0, 1)
    assert ((counts - n / 100) ** 2 / (n / 100)).sum() < 160  # chi-squared with 99 degrees: 99.99 %
    assert abs(torch.corrcoef(u)[0, 1]) < 0.01
    assert abs(np.corrcoef(u[0, 1:], u[0, :-1])[0, 1]) < 0.01  # neighbours in id
    views = counter.unit(counter.bits(0, torch.zeros_like(ids), ids, ("x",)))[0]
    assert views.mean().item() == pytest.approx(0.5, abs=0.005)


def test_below_covers_its_range_evenly() -> None:
    ids = torch.arange(90_000)
    k = counter.below(counter.bits(1, ids, ids * 0, ("k",))[0], 9)
    counts = torch.bincount(k, minlength=9)
    assert len(counts) == 9
    assert (counts - 10_000).abs().max() < 450
    assert counter.below(torch.tensor([0, 2**32 - 1]), 9).tolist() == [0, 8]


def test_unit_is_never_one() -> None:
    assert counter.unit(torch.tensor([2**32 - 1])).item() < 1


def test_permutation() -> None:
    p = counter.permutation(1000, 5, 0)
    assert torch.equal(p.sort().values, torch.arange(1000))
    assert torch.equal(p, counter.permutation(1000, 5, 0))
    for other in (counter.permutation(1000, 5, 1), counter.permutation(1000, 6, 0)):
        assert (p == other).sum() < 10
    assert p[:8].tolist() == counter.permutation(1000, 5, 0)[:8].tolist()
    first = torch.stack([counter.permutation(10, e) for e in range(5000)])[:, 0]  # every place is as likely to be first
    assert (torch.bincount(first, minlength=10) - 500).abs().max() < 110


def test_no_global_generator_is_read() -> None:
    before = torch.get_rng_state()
    a = counter.bits(0, torch.arange(5), torch.arange(5), ("x",))
    torch.manual_seed(99)
    assert torch.equal(a, counter.bits(0, torch.arange(5), torch.arange(5), ("x",)))
    torch.set_rng_state(before)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda_gives_the_same_bits() -> None:
    ids, views = torch.arange(10_000), torch.arange(10_000) % 97
    on = counter.bits(7, ids.cuda(), views.cuda(), ("a", "b"))
    assert torch.equal(on.cpu(), counter.bits(7, ids, views, ("a", "b")))
