import copy

import numpy as np
import pytest
import torch

from potstill.compress import calibration
from potstill.compress.sensitivity import Simulation
from potstill.compress.timing import interleaved
from potstill.errors import ConfigError, DataError


def broken(case, path="second.0"):
    """The same net, but one layer has one huge weight in each channel, which 8 bits cannot bear; the function is the same."""
    net = copy.copy(case.net)
    net.module = copy.deepcopy(case.net.module)
    with torch.no_grad():
        net.module.get_submodule(path).weight[:, 0, 0, 0] = 300.0
        net.module.first[1].weight[0] = 0.0
        net.module.first[1].bias[0] = 0.0  # that channel is always 0, so the huge weights meet nothing
    return net


def test_the_layer_that_hurts_is_blamed_and_kept(case):
    net = broken(case)
    found = Simulation(net, case.calibration)
    blames = found.blames()
    assert blames[0].path == "second.0"
    assert blames[0].kl > 20 * blames[1].kl
    assert {b.path for b in blames} == {"first.0", "second.0", "fc"}
    assert found.to_keep(0.03) == ["second.0"]
    assert found.to_keep(1.0) == []
    assert found.flips(["second.0"]) > 0.03


def test_blaming_leaves_the_net_as_it_was(case):
    before = copy.deepcopy(case.net.module.state_dict())
    found = Simulation(case.net, case.calibration, bits=4)
    found.blames()
    assert torch.equal(found.logits([]), found.float_logits)
    assert all(torch.equal(before[k], v) for k, v in case.net.module.state_dict().items())


def test_fewer_bits_hurt_more(case):
    kl = [sum(b.kl for b in Simulation(case.net, case.calibration, bits).blames()) for bits in (8, 4, 2)]
    assert kl[0] < kl[1] < kl[2]


def test_calibration_pictures_are_balanced_and_the_same_each_time(case):
    data = case.splits.train.subset(
        np.flatnonzero((case.splits.train.labels != 3) | (np.arange(len(case.splits.train)) < 60))
    )
    for n in (10, 55, 200):
        places = calibration.chosen(data, n)
        assert len(set(places.tolist())) == n
        counts = np.bincount(data.labels[places], minlength=10)
        have = np.bincount(data.labels, minlength=10)
        assert (counts >= np.minimum(have, n // 10)).all()
        assert np.array_equal(places, calibration.chosen(data, n))
    assert not np.array_equal(calibration.chosen(data, 50), calibration.chosen(data, 50, seed=1))
    x = calibration.pictures(data, 20)
    assert x.shape == (20, 1, 8, 8)
    assert 0.9 < x.max() <= 1
    hidden = data.relabelled(np.where(np.arange(len(data)) < 30, data.labels, -1))
    assert (hidden.labels[calibration.chosen(hidden, 30)] >= 0).all()


def test_calibration_is_bounded(case):
    with pytest.raises(ConfigError, match=r"1\.\.4096"):
        calibration.chosen(case.splits.train, 5000)
    with pytest.raises(DataError):
        calibration.chosen(case.splits.train.subset([]), 5)


def test_runs_take_turns():
    calls = []
    times = interleaved({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, repeats=4, warmup=1)
    assert "".join(calls) == "baabbaabba"
    assert list(times) == ["a", "b"]
    assert 0 <= times["a"].least_ms <= times["a"].wall_ms <= times["a"].p90_ms


def test_the_slower_run_takes_longer():
    x = torch.rand(200, 200)
    times = interleaved({"one": lambda: x @ x, "ten": lambda: [x @ x for _ in range(10)]}, repeats=15)
    assert times["ten"].cpu_ms > 4 * times["one"].cpu_ms
