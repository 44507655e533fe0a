import pytest
import torch
from torch import nn

from potstill.adapters import ConvReg
from potstill.errors import ModelError
from potstill.losses import AB
from potstill.losses.ab import boundary


def test_equals_repdistiller(golden):
    g = golden("ab")
    shapes = [tuple(f.shape[1:]) for f in g["student_*"]]
    g.check(AB(shapes, shapes)(g["student_*"], g["teacher_*"]))


def test_by_hand_with_another_margin_and_only_the_signs_of_the_teacher():
    s = torch.tensor([[[[-3.0]], [[-1.0]], [[0.5]], [[3.0]]]])
    for target, expected in ((7.0, 25 + 9 + 2.25 + 0), (1e-9, 25 + 9 + 2.25 + 0), (-7.0, 0 + 1 + 6.25 + 25)):
        assert boundary(s, torch.full_like(s, target), margin=2.0).item() == pytest.approx(expected)
    assert boundary(s, torch.zeros_like(s), margin=2.0).item() == pytest.approx(0 + 1 + 6.25 + 25)  # 0 does not fire


def test_connects_only_where_shapes_differ():
    loss = AB([(3, 4, 4), (5, 2, 2)], [(3, 4, 4), (6, 2, 2)])
    assert isinstance(loss.connectors[0], nn.Identity)
    assert isinstance(loss.connectors[1], ConvReg)
    assert not any(isinstance(m, nn.ReLU) for m in loss.modules())
    s = [torch.randn(2, 3, 4, 4), torch.randn(2, 5, 2, 2)]
    t = [torch.randn(2, 3, 4, 4), torch.randn(2, 6, 2, 2)]
    parts = [boundary(s[0], t[0], 1.0) / 2, boundary(loss.connectors[1](s[1]), t[1], 1.0)]
    torch.testing.assert_close(loss(s, t), 0.003 * sum(parts))


def test_refuses_to_drop_stages():
    with pytest.raises(ModelError, match="as many"):
        AB([(3, 4, 4)], [(3, 4, 4), (5, 2, 2)])
