"""The autoencoder of factor transfer, as published; its training is tested with FT."""

import pytest
import torch
from torch import nn

from potstill.losses._paraphraser import Paraphraser, factors, layers


def test_layers_keep_the_size_and_leak_a_tenth() -> None:
    net = layers(nn.Conv2d, (2, 3))
    with torch.no_grad():
        net[0].weight.zero_()
        net[0].bias.copy_(torch.tensor([-1.0, 0.0, 2.0]))
    said = net(torch.randn(1, 2, 5, 4))
    assert said.shape == (1, 3, 5, 4)
    torch.testing.assert_close(said[0, :, 0, 0], torch.tensor([-0.1, 0.0, 2.0]))


def test_the_paraphraser_gives_back_a_map_of_the_same_shape() -> None:
    assert Paraphraser(6, 3)(torch.randn(2, 6, 5, 4)).shape == (2, 6, 5, 4)


@pytest.mark.parametrize(("channels", "rate", "expected"), [(64, 0.5, 32), (3, 0.5, 1), (2, 0.1, 1), (2, 0.75, 1)])
def test_a_factor_has_a_share_of_the_channels_and_one_at_least(channels: int, rate: float, expected: int) -> None:
    assert factors(channels, rate) == expected
