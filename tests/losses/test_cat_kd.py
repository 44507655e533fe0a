import pytest
import torch
import torch.nn.functional as F
from torch import nn

from potstill.errors import ModelError
from potstill.losses import CATKD

CLASSES = 5


@pytest.mark.parametrize("normalize", [False, True])
def test_equals_maps_formed_first_and_pooled_then(normalize):
    """The authors' order: the classifier as a 1x1 convolution without bias, then pooling, then the norm, in float64."""
    torch.manual_seed(0)
    s_head, t_head = nn.Linear(3, CLASSES), nn.Linear(6, CLASSES)
    loss = CATKD((3, 8, 8), (6, 4, 4), s_head, t_head, resolution=2, normalize=normalize)
    s, t = torch.randn(4, 3, 8, 8), torch.randn(4, 6, 4, 4)
    maps = []
    for f, head in ((s, s_head), (t, t_head)):
        cam = F.adaptive_avg_pool2d(F.conv2d(f.double(), head.weight.double()[:, :, None, None]), 2)
        maps.append(F.normalize(cam, dim=(2, 3)) if normalize else cam)
    expected = ((maps[0] - maps[1]) ** 2).mean((1, 2, 3))
    rows = loss(s, t)
    torch.testing.assert_close(rows.double(), expected, rtol=1e-4, atol=1e-6)
    (got,) = torch.autograd.grad(rows.mean(), s_head.weight)
    (wanted,) = torch.autograd.grad(expected.mean(), s_head.weight)
    torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-6)


def test_the_students_classifier_is_live_and_not_ours():
    s_head, t_head = nn.Linear(3, CLASSES), nn.Linear(6, CLASSES)
    loss = CATKD((3, 8, 8), (6, 4, 4), s_head, t_head)
    s, t = torch.randn(4, 3, 8, 8), torch.randn(4, 6, 4, 4)
    before = loss(s, t)
    with torch.no_grad():
        s_head.weight.mul_(2)
        t_head.weight.mul_(2)
    assert not torch.allclose(loss(s, t), before)
    assert list(loss.parameters()) == []
    assert set(loss.state_dict()) == {"theirs.weight", "theirs.bias"}
    assert torch.equal(loss.theirs.weight, t_head.weight / 2)


def test_refusals():
    with pytest.raises(ModelError, match=r"student's last layer(.|\n)*reads 6"):
        CATKD((3, 8, 8), (6, 4, 4), nn.Linear(6, CLASSES), nn.Linear(6, CLASSES))
    with pytest.raises(ModelError, match="teacher's last layer"):
        CATKD((3, 8, 8), (6, 4, 4), nn.Linear(3, CLASSES), None)
    with pytest.raises(ModelError, match="same classes, got 5 and 4"):
        CATKD((3, 8, 8), (6, 4, 4), nn.Linear(3, CLASSES), nn.Linear(6, 4))
