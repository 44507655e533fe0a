import torch
from torch.nn import functional as F

from potstill.losses import TTM


def test_equals_the_power_transform_by_hand_in_float64():
    torch.manual_seed(0)
    s, t = 3 * torch.randn(6, 5).double(), 3 * torch.randn(6, 5).double()
    s.requires_grad_()
    expected = []
    for zs, zt in zip(s, t, strict=True):
        powers = [float(p) ** 0.3 for p in F.softmax(zt, 0)]
        row = 0.0
        for c, power in enumerate(powers):
            q = power / sum(powers)
            row = row + q * (torch.tensor(q).log() - F.log_softmax(zs, 0)[c])
        expected.append(row)
    expected = torch.stack(expected)
    mine = s.detach().float().requires_grad_()
    rows = TTM(0.3)(mine, t.float())
    torch.testing.assert_close(rows, expected.float(), rtol=1e-4, atol=1e-6)
    rows.sum().backward()
    expected.sum().backward()
    torch.testing.assert_close(mine.grad, s.grad.float(), rtol=1e-4, atol=1e-6)


def test_no_power_is_kd_at_temperature_one():
    torch.manual_seed(1)
    s, t = torch.randn(4, 5), torch.randn(4, 5)
    expected = F.kl_div(s.log_softmax(1), t.softmax(1), reduction="none").sum(1)
    torch.testing.assert_close(TTM(1.0)(s, t), expected)


def test_a_sure_teacher_does_not_underflow():
    t = torch.tensor([[450.0, 0.0, -450.0]])  # p is 1, 0, 0 in float32, and 0 to a power stays 0
    s = torch.zeros(1, 3, requires_grad=True)
    rows = TTM(0.001)(s, t)
    rows.sum().backward()
    torch.testing.assert_close(s.grad, (torch.zeros(1, 3) + 1 / 3) - (0.001 * t).softmax(1))
