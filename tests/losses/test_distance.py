"""The plain distance before PAD."""

import torch
from torch import nn

from potstill.losses._distance import Distance


def test_is_the_mean_squared_difference_of_each_sample() -> None:
    loss = Distance([(3,)], [(3,)])
    assert isinstance(loss.regressor, nn.Identity)
    s, t = torch.tensor([[1.0, 2.0, 3.0], [0.0, 0.0, 0.0]]), torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.0, 3.0]])
    torch.testing.assert_close(loss([s], [t]), torch.tensor([13 / 3, 3.0]))


def test_reads_the_deepest_spot_and_averages_its_map() -> None:
    loss = Distance([(8, 4, 4), (2, 2, 2)], [(8, 4, 4), (2, 1, 1)])
    s = torch.arange(8.0).reshape(1, 2, 2, 2)  # averages 1.5 and 5.5
    value = loss(
        [torch.full((1, 8, 4, 4), 9.0), s], [torch.zeros(1, 8, 4, 4), torch.tensor([1.5, 3.5]).view(1, 2, 1, 1)]
    )
    torch.testing.assert_close(value, torch.tensor([2.0]))


def test_unequal_widths_are_bridged_by_a_linear_layer_that_learns() -> None:
    loss = Distance((2,), (5,))
    assert isinstance(loss.regressor, nn.Linear)
    s, t = torch.randn(4, 2), torch.randn(4, 5)
    torch.testing.assert_close(loss(s, t), (loss.regressor(s) - t).square().mean(1))
    loss(s, t).mean().backward()
    assert loss.regressor.weight.grad.abs().sum() > 0
