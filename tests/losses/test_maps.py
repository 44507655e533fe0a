"""What losses on maps share (potstill/losses/_maps.py)."""

import pytest
import torch

from potstill.errors import ModelError
from potstill.losses._maps import BatchNorm, as_map, as_maps, at_one_size, map_shape, map_shapes, places, pooled


@pytest.mark.parametrize("extra", [0, 1, 2, 5], ids=["patches", "class", "class+distillation", "class+registers"])
def test_tokens_lie_on_their_grid_without_the_tokens_before_them(extra):
    patches = torch.randn(2, 7, 3, 3)
    tokens = torch.cat([torch.full((2, extra, 7), 99.0), patches.flatten(2).mT], 1)
    assert map_shape((9 + extra, 7)) == (7, 3, 3)
    assert torch.equal(as_map(tokens), patches)


def test_tokens_that_are_no_grid_lie_in_a_column_and_a_vector_is_one_pixel():
    tokens = torch.randn(2, 12, 7)
    assert map_shape((12, 7)) == (7, 12, 1)
    assert torch.equal(as_map(tokens)[:, :, :, 0], tokens.mT)
    assert as_map(torch.randn(2, 7)).shape == (2, 7, 1, 1)
    with pytest.raises(ModelError, match="map"):
        map_shape((2, 3, 4, 5))


def test_a_list_of_shapes_and_one_shape():
    assert map_shapes((3, 4, 4)) == [(3, 4, 4)]
    assert map_shapes([(3, 4, 4), (5,)]) == [(3, 4, 4), (5, 1, 1)]
    with pytest.raises(ModelError, match="as many"):
        as_maps([torch.randn(2, 3)], [], "this")
    with pytest.raises(ModelError, match="one at least"):
        as_maps([], [], "this")


def test_each_axis_is_averaged_to_the_smaller():
    f, g = at_one_size(torch.randn(2, 3, 8, 4), torch.randn(2, 5, 4, 4))
    assert f.shape[2:] == g.shape[2:] == (4, 4)


def test_batchnorm_is_torchs_but_for_a_single_value():
    torch.manual_seed(0)
    ours, theirs = BatchNorm(3), torch.nn.BatchNorm2d(3)
    for x in (torch.randn(2, 3, 4, 4), torch.randn(1, 3, 2, 1)):
        torch.testing.assert_close(ours(x), theirs(x))
    state = ours.running_mean.clone()
    one = torch.randn(1, 3, 1, 1)
    torch.testing.assert_close(ours(one), theirs.eval()(one))
    assert torch.equal(ours.running_mean, state)
    assert ours(torch.randn(5, 3)).shape == (5, 3)


def test_pooled_is_the_average_over_positions():
    f = torch.randn(2, 3, 4, 5)
    torch.testing.assert_close(pooled(f), f.mean((2, 3)))
    torch.testing.assert_close(pooled(f[:, :, :1, :2]), f[:, :, 0, :2].mean(2))
    torch.testing.assert_close(pooled(f[:, :, :3, :1]), f[:, :, :3, 0].mean(2))
    torch.testing.assert_close(pooled(f[:, :, 0, 0]), f[:, :, 0, 0])
    assert pooled(f.half()[:, :, :1, :1]).dtype == torch.float32


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_places_are_rows_of_channels_of_the_same_memory(layout: torch.memory_format) -> None:
    f = torch.randn(2, 3, 4, 5).contiguous(memory_format=layout)
    rows = places(f)
    assert rows.data_ptr() == f.data_ptr()
    assert rows.shape == (2, 20, 3)
    for y in range(4):
        for x in range(5):
            assert torch.equal(rows[:, 5 * y + x], f[:, :, y, x])
