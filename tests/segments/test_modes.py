import pytest
import torch
from torch import nn

from potstill.segments import evaluating, without_slopes


def test_every_module_gets_its_own_mode_back_even_after_a_fault() -> None:
    net = nn.Sequential(nn.Dropout(), nn.BatchNorm1d(2), nn.Linear(2, 2))
    net[1].eval()
    with evaluating(net):
        assert not any(m.training for m in net.modules())
    with pytest.raises(ZeroDivisionError), evaluating(net):
        _ = 1 / 0
    assert [m.training for m in net.modules()] == [True, True, False, True]


def test_no_slopes_inside_and_all_as_before_outside() -> None:
    net, x = nn.Linear(2, 2), torch.rand(1, 2, requires_grad=True)
    net.bias.requires_grad_(False)
    before = net(x)
    with without_slopes(net):
        inside = net(x)
    with pytest.raises(ZeroDivisionError), without_slopes(net):
        _ = 1 / 0
    inside.sum().backward()
    assert net.weight.grad is None
    assert x.grad is not None
    assert (net.weight.requires_grad, net.bias.requires_grad) == (True, False)
    before.sum().backward()
    assert net.weight.grad is not None, "a graph made before is untouched"
