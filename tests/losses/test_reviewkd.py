import pytest
import torch
import torch.nn.functional as F

from potstill.errors import ModelError
from potstill.losses import ReviewKD
from potstill.losses.reviewkd import hcl


def test_hcl_equals_the_reference(golden):
    g = golden("reviewkd.hcl")
    g.check(sum(hcl(s, t) for s, t in zip(g["student_*"], g["teacher_*"], strict=True)))


def test_the_fusion_by_hand():
    """ReviewKD's forward written out for three spots, the last a vector, in eval mode."""
    torch.manual_seed(0)
    s_shapes, t_shapes = [(3, 8, 8), (5, 4, 4), (7,)], [(4, 8, 8), (6, 2, 2), (9,)]
    loss = ReviewKD(s_shapes, t_shapes)
    s, t = ([torch.randn(2, *shape) for shape in shapes] for shapes in (s_shapes, t_shapes))
    loss(s, t)  # statistics of the BatchNorms
    loss.eval()
    one, two, three = loss.fusions
    assert one.enter[0].weight.shape[0] == 7  # the student's deepest width, below 512

    x3 = three.enter(s[2][:, :, None, None])
    x2 = two.enter(s[1])
    up = x3.expand(-1, -1, 4, 4)
    z = torch.sigmoid(two.attention(torch.cat([x2, up], 1)))
    x2 = x2 * z[:, 0:1] + up * z[:, 1:2]
    x2 = x2[:, :, ::2, ::2]  # nearest, to the teacher's 2x2
    x1 = one.enter(s[0])
    up = x2.repeat_interleave(4, 2).repeat_interleave(4, 3)
    z = torch.sigmoid(one.attention(torch.cat([x1, up], 1)))
    x1 = x1 * z[:, 0:1] + up * z[:, 1:2]
    expected = hcl(one.leave(x1), t[0]) + hcl(two.leave(x2), t[1])
    expected = expected + (three.leave(x3).flatten(1) - t[2]).square().mean(1)
    torch.testing.assert_close(loss(s, t), expected)


@pytest.mark.parametrize("size", [1, 2, 3, 8])
def test_hcl_by_hand(size):
    torch.manual_seed(0)
    s, t = torch.randn(2, 3, size, size).double(), torch.randn(2, 3, size, size).double()
    total, weight, weights = ((s - t) ** 2).mean((1, 2, 3)), 1.0, 1.0
    for level in (4, 2, 1):
        if level < size:
            weight /= 2
            weights += weight
            difference = F.adaptive_avg_pool2d(s, level) - F.adaptive_avg_pool2d(t, level)
            total = total + weight * (difference**2).mean((1, 2, 3))
    torch.testing.assert_close(hcl(s, t).double(), total / weights, rtol=1e-5, atol=1e-7)


def test_refuses_to_drop_stages():
    with pytest.raises(ModelError, match="as many"):
        ReviewKD([(3, 8, 8), (5, 4, 4)], [(4, 8, 8)])


def test_the_width_and_how_the_convolutions_are_drawn():
    """Uniform in ±sqrt(3 / fan_in), as in the authors' code; torch draws in a third of that."""
    assert ReviewKD([(3, 8, 8), (7,)], [(4, 8, 8), (9,)], width=2).fusions[0].enter[0].out_channels == 2
    torch.manual_seed(0)
    for convolution in ((fusion := ReviewKD((64, 4, 4), (80, 4, 4)).fusions[0]).enter[0], fusion.leave[0]):
        bound = (3 / convolution.weight[0].numel()) ** 0.5
        assert 0.99 * bound < convolution.weight.abs().max() <= bound
