import pytest
import torch
import torch.nn.functional as F
from torch import nn

from potstill.errors import ModelError
from potstill.losses import CWD


def test_value_and_gradient_by_hand():
    torch.manual_seed(0)
    T = 3.0
    s, t = torch.randn(4, 5, 2, 3, requires_grad=True), torch.randn(4, 5, 2, 3)
    p_s, p_t = (f.double().flatten(2).div(T).softmax(2) for f in (s, t))
    expected = T**2 * (p_t * (p_t / p_s).log()).sum(2).mean(1)
    rows = CWD((5, 2, 3), (5, 2, 3), temperature=T)(s, t)
    torch.testing.assert_close(rows.double(), expected, rtol=1e-4, atol=1e-6)
    (got,), (wanted,) = torch.autograd.grad(rows.mean(), s), torch.autograd.grad(expected.mean(), s)
    torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-6)


def test_other_channels_are_mapped_and_the_larger_map_is_averaged():
    loss = CWD((3, 4, 4), (5, 2, 2))
    s, t = torch.randn(2, 3, 4, 4), torch.randn(2, 5, 2, 2)
    same = CWD((5, 2, 2), (5, 2, 2))
    assert isinstance(same.align, nn.Identity)
    torch.testing.assert_close(loss(s, t), same(loss.align(F.avg_pool2d(s, 2)), t))


def test_extreme_activations_are_finite():
    s = torch.zeros(2, 3, 4, 4)
    s[:, :, 0, 0] = 1e4
    s.requires_grad_()
    rows = CWD((3, 4, 4), (3, 4, 4), temperature=1.0)(s, -s.detach())
    rows.sum().backward()
    assert rows.isfinite().all()
    assert s.grad.isfinite().all()


ROW, COLUMN, SQUARE, POINT = (5, 1, 4), (5, 4, 1), (5, 4, 4), (5, 1, 1)


@pytest.mark.parametrize(("s", "t"), [(POINT, SQUARE), (SQUARE, POINT), (ROW, COLUMN), (COLUMN, ROW), ((5,), (5,))])
def test_a_single_position_is_refused(s, t):
    with pytest.raises(ModelError, match=r"one position(.|\n)*fitnet"):
        CWD(s, t)


@pytest.mark.parametrize("shape", [ROW, COLUMN, (5, 2, 1), (5, 1, 2)])
def test_two_positions_are_enough(shape):
    torch.manual_seed(0)
    assert (CWD(shape, shape)(torch.randn(2, *shape), torch.randn(2, *shape)) > 1e-3).all()


def test_under_autocast_only_the_convolution_is_in_half_precision():
    torch.manual_seed(0)
    loss, s, t = CWD((3, 4, 4), (5, 4, 4), 3.0), torch.randn(2, 3, 4, 4), torch.randn(2, 5, 4, 4)
    with torch.autocast("cpu", torch.bfloat16):
        rows, mapped = loss(s, t), loss.align(s)
    torch.testing.assert_close(rows, CWD((5, 4, 4), (5, 4, 4), 3.0)(mapped.float(), t))
