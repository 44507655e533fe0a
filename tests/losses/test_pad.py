import torch
from torch import nn

from potstill.losses import NST, PAD
from potstill.losses.fitnet import hint


def test_by_hand_in_float64():
    torch.manual_seed(0)
    loss = PAD((3,), (5,))
    s, t = torch.randn(6, 3, requires_grad=True), torch.randn(6, 5)
    linear = loss.log_variance[0]
    v = s.double() @ linear.weight.double().T + linear.bias.double()
    v = (v - v.mean(0)) / (v.var(0, unbiased=False) + 1e-5).sqrt()
    ours = s.double() @ loss.regressor.weight.double().T + loss.regressor.bias.double()
    expected = ((ours - t) ** 2 / (v.exp() + 1e-6) + v).mean(1)
    rows = loss(s, t)
    torch.testing.assert_close(rows.double(), expected, rtol=1e-4, atol=1e-5)
    (got,), (wanted,) = torch.autograd.grad(rows.mean(), s), torch.autograd.grad(expected.mean(), s)
    torch.testing.assert_close(got, wanted, rtol=1e-3, atol=1e-5)


def test_with_all_variances_one_it_is_the_squared_distance():
    loss = PAD((4,), (4,))
    assert isinstance(loss.regressor, nn.Identity)
    nn.init.zeros_(loss.log_variance[1].weight)
    s, t = torch.randn(6, 4), torch.randn(6, 4)
    torch.testing.assert_close(loss(s, t), hint(s, t), rtol=1e-4, atol=1e-5)


def test_wraps_another_loss_with_one_variance_a_sample():
    torch.manual_seed(0)
    s, t = ([torch.randn(6, c, n, n) for n in (8, 4, 2)] for c in (3, 5))
    loss = PAD([(3, n, n) for n in (8, 4, 2)], [(5, n, n) for n in (8, 4, 2)], NST())
    v = loss.log_variance(s[-1].mean((2, 3)))
    assert v.shape == (6, 1)
    torch.testing.assert_close(loss(s, t), NST()(s, t) / (v[:, 0].exp() + 1e-6) + v[:, 0])


def test_a_vanishing_variance_is_bounded():
    loss = PAD((4,), (4,))
    nn.init.constant_(loss.log_variance[1].bias, -500.0)
    s = torch.randn(6, 4, requires_grad=True)
    rows = loss(s, torch.randn(6, 4))
    rows.sum().backward()
    assert rows.isfinite().all()
    assert s.grad.isfinite().all()


def test_another_loss_needs_no_regressor_and_the_variance_is_float32_under_autocast():
    assert isinstance(PAD((3, 4, 4), (5, 4, 4), NST()).regressor, nn.Identity)
    torch.manual_seed(0)
    loss, s, t = PAD((4,), (4,)), torch.randn(6, 4), torch.randn(6, 4)
    exact = loss(s, t)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(loss(s, t), exact)
