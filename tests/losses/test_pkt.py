import math

import pytest
import torch

from potstill.losses import PKT
from potstill.losses.pkt import Choices, neighbours


def test_equals_repdistiller(golden):
    g = golden("pkt")
    g.check(PKT()(g["student"], g["teacher"]))


def test_each_row_equals_the_sum_by_hand():
    torch.manual_seed(0)
    s, t = torch.randn(5, 3), torch.randn(5, 6)

    def row(x, i):
        x = x.double().tolist()
        size = [math.hypot(*v) for v in x]
        near = [(sum(p * q for p, q in zip(x[i], v, strict=True)) / size[i] / size[j] + 1) / 2 for j, v in enumerate(x)]
        return [n / sum(near) for n in near]

    expected = [sum(q * math.log(q / p) for p, q in zip(row(s, i), row(t, i), strict=True)) / 5 for i in range(5)]
    torch.testing.assert_close(PKT()(s, t), torch.tensor(expected), rtol=1e-3, atol=1e-6)


def test_a_zero_vector_gets_no_gradient_and_spoils_no_other():
    torch.manual_seed(1)
    s, t = torch.randn(4, 3), torch.randn(4, 3)
    s[1] = 0
    s.requires_grad_()
    PKT()(s, t).mean().backward()
    assert s.grad.isfinite().all()
    assert (s.grad[1] == 0).all()
    assert (s.grad[[0, 2, 3]] != 0).any(1).all()


def test_what_is_never_chosen_counts_by_epsilon():
    opposite, across = torch.tensor([[1.0, 0.0], [-1.0, 0.0]]), torch.tensor([[0.0, 3.0], [3.0, 0.0]])
    e, p, q = 1e-7, (1.0, 0.0), (2 / 3, 1 / 3)

    def row(p, q):
        return sum(b * math.log((b + e) / (a + e)) for a, b in zip(p, q, strict=True)) / 2

    torch.testing.assert_close(PKT()(opposite, across), torch.full((2,), row(p, q)), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(PKT()(across, opposite), torch.full((2,), row(q, p)), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("apart", [1.0, 2e-3, 5e-4])  # of nearly opposite vectors kappa is near epsilon
def test_its_slope_is_that_of_its_rows(apart):
    torch.manual_seed(2)
    s, t = torch.randn(5, 3, dtype=torch.float64), torch.randn(5, 4, dtype=torch.float64)
    s[1] = -s[0] + apart * s[1]
    s.requires_grad_()
    q, weights = neighbours(t)[0], torch.rand(5, dtype=torch.float64)

    def rows(x):
        near = torch.nn.functional.normalize(x) @ torch.nn.functional.normalize(x).T + 1
        return (q * torch.log((q + 1e-7) / (near / near.sum(1, keepdim=True) + 1e-7))).mean(1)

    torch.testing.assert_close(Choices.apply(s, q), rows(s))
    expected, found = (torch.autograd.grad((weights * f(s)).sum(), s)[0] for f in (rows, lambda x: Choices.apply(x, q)))
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-12)
