"""Statistics measured anew are those of the pictures, and nothing else changes."""

from __future__ import annotations

import torch
from torch import nn

from potstill.compress.recalibrate import recalibrate
from potstill.models.preprocess import Preprocess


def test_statistics_of_the_pictures_as_the_net_sees_them() -> None:
    net = nn.Sequential(nn.BatchNorm2d(3, momentum=0.3), nn.Dropout(0.5), nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)).train()
    net[3].eval()
    weights = [p.detach().clone() for p in net.parameters()]
    batches = [torch.rand(64, 3, 8, 8) for _ in range(4)]
    assert recalibrate(net, batches, Preprocess(mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))) == 2
    seen = (torch.cat(batches) - 0.5) / 0.25
    torch.testing.assert_close(net[0].running_mean, seen.mean((0, 2, 3)))
    torch.testing.assert_close(net[0].running_var, seen.var((0, 2, 3)), rtol=1e-2, atol=0)
    expected = net[2](net[0].eval()(seen)).mean((0, 2, 3))  # no dropout on the way
    torch.testing.assert_close(net[3].running_mean, expected, rtol=1e-2, atol=1e-2)
    assert net[0].momentum == 0.3
    net[0].train()
    assert [m.training for m in net] == [True, True, True, False]
    assert all(torch.equal(a, b) for a, b in zip(weights, net.parameters(), strict=True))


def test_a_net_without_any() -> None:
    assert recalibrate(nn.Linear(3, 2), []) == 0
