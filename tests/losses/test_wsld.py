import math

import pytest
import torch

from potstill.losses import WSLD
from potstill.types import Batch


def batch(y):
    return Batch(torch.empty(0), torch.as_tensor(y), torch.arange(len(y)), torch.zeros(len(y)))


def log_softmax(z):
    total = math.log(sum(math.exp(x) for x in z))
    return [x - total for x in z]


@pytest.mark.parametrize("T", [1.0, 4.0])
def test_each_sample_and_its_gradient_equal_the_sum_by_hand(T):
    torch.manual_seed(0)
    s, t, y = 2 * torch.randn(5, 4), 2 * torch.randn(5, 4), [3, 0, 1, 1, 2]
    values, slopes = [], []
    for zs, zt, label in zip(s.tolist(), t.tolist(), y, strict=True):
        weight = 1 - math.exp(-log_softmax(zs)[label] / log_softmax(zt)[label])
        log_p, log_q = (log_softmax([z / T for z in zz]) for zz in (zs, zt))
        values.append(-T * T * weight * sum(math.exp(b) * a for a, b in zip(log_p, log_q, strict=True)))
        slopes.append([T * weight * (math.exp(a) - math.exp(b)) for a, b in zip(log_p, log_q, strict=True)])
    s.requires_grad_()
    rows = WSLD(T)(s, t, batch(y))
    torch.testing.assert_close(rows, torch.tensor(values), rtol=1e-4, atol=1e-5)
    rows.sum().backward()
    torch.testing.assert_close(s.grad, torch.tensor(slopes), rtol=1e-4, atol=1e-5)  # none through the weight


def test_a_student_that_knows_better_is_taught_less():
    t = torch.tensor([[1.0, 0.0, 0.0]]).repeat(2, 1)
    s = torch.tensor([[9.0, 0.0, 0.0], [-9.0, 0.0, 0.0]])
    soft = -(t / 4).softmax(1) * (s / 4).log_softmax(1)
    shares = WSLD(4.0)(s, t, batch([0, 0])) / (16 * soft.sum(1))
    assert shares[0] < 1e-3
    assert shares[1] > 0.99


def test_two_sure_nets_and_no_label_give_zero():
    z = torch.tensor([[450.0, 0.0, 0.0]], requires_grad=True)
    rows = WSLD()(z, z.detach(), batch([0]))
    rows.sum().backward()
    assert rows == 0
    assert z.grad.isfinite().all()
    assert WSLD()(torch.randn(1, 3), torch.randn(1, 3), batch([-1])) == 0


def test_a_teacher_without_any_doubt_teaches_with_the_full_weight():
    s, t = torch.zeros(1, 3), torch.tensor([[450.0, 0.0, 0.0]])  # its cross-entropy is 0
    torch.testing.assert_close(WSLD(1.0)(s, t, batch([0])), torch.tensor([math.log(3)]))
