import pytest
import torch
import torch.nn.functional as F

from potstill.errors import ModelError
from potstill.losses import FSP


def test_equals_repdistiller(golden):
    g = golden("fsp")
    shapes = [tuple(f.shape[1:]) for f in g["student_*"]]
    g.check(FSP(shapes, shapes)(g["student_*"], g["teacher_*"]))


def test_max_pooling_as_in_the_paper_by_hand():
    torch.manual_seed(0)
    shapes = [(3, 4, 4), (5, 2, 2)]
    s, t = ([torch.randn(2, *shape) for shape in shapes] for _ in range(2))

    def flow(maps, b):
        first, last = F.max_pool2d(maps[0], 2)[b].double(), maps[1][b].double()
        return torch.tensor([[(first[i] * last[j]).mean() for j in range(5)] for i in range(3)])

    expected = torch.stack([((flow(s, b) - flow(t, b)) ** 2).mean() for b in range(2)])
    torch.testing.assert_close(FSP(shapes, shapes, pooling="max")(s, t).double(), expected, rtol=1e-5, atol=1e-6)


def test_unequal_channels_and_single_maps_are_refused_with_a_way_out():
    with pytest.raises(ModelError, match=r"\[3, 5\] and \[3, 6\](.|\n)*nst"):
        FSP([(3, 4, 4), (5, 2, 2)], [(3, 4, 4), (6, 2, 2)])
    with pytest.raises(ModelError, match="two spots"):
        FSP([(3, 4, 4)], [(3, 4, 4)])


def test_resolutions_may_differ():
    FSP([(3, 8, 8), (5, 4, 4)], [(3, 4, 4), (5, 2, 2)])(
        [torch.randn(2, 3, 8, 8), torch.randn(2, 5, 4, 4)], [torch.randn(2, 3, 4, 4), torch.randn(2, 5, 2, 2)]
    )


@pytest.mark.parametrize("pooling", ["average", "max"])
@pytest.mark.parametrize(("first", "last"), [((2, 2), (4, 4)), ((4, 2), (2, 4)), ((2, 4), (4, 2)), ((4, 4), (2, 2))])
def test_the_larger_map_of_a_pair_is_pooled_on_each_axis(first, last, pooling):
    torch.manual_seed(1)
    shapes = [(3, *first), (5, *last)]
    s, t = ([torch.randn(2, *shape) for shape in shapes] for _ in range(2))

    def pooled(m):
        parts = m.double().unflatten(3, (2, -1)).unflatten(2, (2, -1))
        return parts.mean((3, 5)) if pooling == "average" else parts.amax((3, 5))

    def flow(maps):
        return torch.einsum("bihw,bjhw->bij", *map(pooled, maps)) / 4

    expected = (flow(s) - flow(t)).square().mean((1, 2))
    torch.testing.assert_close(FSP(shapes, shapes, pooling)(s, t).double(), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("height", "packs"), [(4, None), (5, "values")])
def test_matrices_are_kept_where_they_are_smaller_than_the_maps(height: int, packs: str | None):
    """8 * 24 + 24 * 16 = 576 numbers stand against 48 * 12 = 576, and against 624."""
    maps = [(8, 4, 3), (24, 4, 3), (16, height, 3)]
    assert FSP(maps, maps).packs == packs
