import math

import pytest
import torch

from potstill.errors import ModelError
from potstill.losses import KD, MLKD

TEMPERATURES = (4.0, 3.0, 5.0, 2.0, 6.0)


def softmax(z):
    e = [math.exp(x) for x in z]
    return [x / sum(e) for x in e]


def by_hand(s, t, temperatures, hardest):
    """Sample by sample and class by class; the quantile by sorting (B and C are odd, so the median is one of them)."""
    B, C = s.shape
    sure = [softmax(z) for z in t.tolist()]
    confidence, summed = [max(p) for p in sure], [sum(p[c] for p in sure) for c in range(C)]
    limit = sorted(confidence)[int(hardest * (B - 1))], sorted(summed)[int(hardest * (C - 1))]
    rows = [0.0] * B
    for T in temperatures:
        P = [softmax([z / T for z in row]) for row in s.tolist()]
        Q = [softmax([z / T for z in row]) for row in t.tolist()]
        for b in range(B):
            if confidence[b] <= limit[0]:
                rows[b] += T * T * sum(q * math.log(q / p) for p, q in zip(P[b], Q[b], strict=True))
                for other in range(B):
                    gram = sum(P[b][c] * P[other][c] - Q[b][c] * Q[other][c] for c in range(C))
                    rows[b] += gram**2
        for c in range(C):
            if summed[c] <= limit[1]:
                for other in range(C):
                    gram = sum(P[b][c] * P[b][other] - Q[b][c] * Q[b][other] for b in range(B))
                    rows = [row + gram**2 / C for row in rows]
    return torch.tensor(rows)


@pytest.mark.parametrize("hardest", [0.5, 1.0])
def test_one_view_equals_the_sum_by_hand(hardest):
    torch.manual_seed(0)
    s, t = 2 * torch.randn(7, 5), 2 * torch.randn(7, 5)
    expected = by_hand(s, t, TEMPERATURES, hardest)
    torch.testing.assert_close(MLKD(hardest=hardest)(s, t), expected, rtol=1e-4, atol=1e-4)


def test_a_sure_teachers_sample_is_not_matched():
    t = torch.tensor([[9.0, 0, 0], [0, 8.0, 0], [0.1, 0, 0]])
    s = torch.zeros(3, 3, requires_grad=True)
    rows = MLKD()(s, t)
    kd = [torch.autograd.grad(rows[b], s, retain_graph=True)[0][b].abs().max() for b in range(3)]
    without_mask = MLKD(hardest=1.0)(s, t)
    assert rows[0] < 0.2 * without_mask[0]
    assert kd[0] < 0.1 < without_mask[0]


def test_a_second_view_adds_its_own_kd_at_every_temperature():
    torch.manual_seed(1)
    weak, strong = (torch.randn(5, 4), torch.randn(5, 4)), (torch.randn(5, 4), torch.randn(5, 4))
    loss = MLKD()
    both = loss([weak[0], strong[0]], [weak[1], strong[1]])
    expected = loss(*weak) + sum(KD(T)(*strong) for T in TEMPERATURES)
    torch.testing.assert_close(both, expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(loss([weak[0]], [weak[1]]), loss(*weak))
    with pytest.raises(ModelError, match="views"):
        loss([weak[0], strong[0]], [weak[1]])


def test_standardized_ignores_shift_and_scale():
    torch.manual_seed(2)
    s, t = torch.randn(5, 4), torch.randn(5, 4)
    loss = MLKD(standardize=True)
    torch.testing.assert_close(loss(3 * s + 1, t), loss(s, t), rtol=1e-3, atol=1e-4)
    assert not torch.allclose(MLKD()(3 * s + 1, t), MLKD()(s, t), rtol=1e-3)


def test_one_view_may_come_in_a_list_on_either_side_and_none_is_refused():
    torch.manual_seed(3)
    s, t = torch.randn(5, 4), torch.randn(5, 4)
    loss = MLKD()
    for ss, ts in ((s, [t]), ([s], t)):
        assert torch.equal(loss(ss, ts), loss(s, t))
    with pytest.raises(ModelError, match="views"):
        loss([], [])
