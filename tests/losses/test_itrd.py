import math
import statistics

import pytest
import torch

from potstill.losses import ITRD, itrd


def correlation(a, b, alpha):
    a, b = a.double().tolist(), b.double().tolist()
    n, total = len(a), 0.0
    for x, y in zip(zip(*a, strict=True), zip(*b, strict=True), strict=True):
        mx, my, sx, sy = statistics.mean(x), statistics.mean(y), statistics.stdev(x), statistics.stdev(y)
        c = sum((p - mx) / sx * (q - my) / sy for p, q in zip(x, y, strict=True)) / n
        total += abs(c - 1) ** (2 * alpha)
    return math.log2(total)


def mutual(a, b):
    a, b = ([[x / (math.hypot(*v) or 1) for x in v] for v in m.double().tolist()] for m in (a, b))
    B = len(a)

    def dot(m, i, j):
        return sum(x * y for x, y in zip(m[i], m[j], strict=True))

    trace = sum(dot(a, i, i) for i in range(B)) or 1, sum(dot(a, i, i) * dot(b, i, i) for i in range(B)) or 1
    return [
        B * sum((dot(a, i, j) / trace[0]) ** 2 - (dot(a, i, j) * dot(b, i, j) / trace[1]) ** 2 for j in range(B))
        for i in range(B)
    ]


@pytest.mark.parametrize(("s_dim", "weights"), [(3, (2.0, 1.0)), (6, (2.0, 1.0)), (3, (0.0, 1.0)), (3, (1.0, 0.0))])
def test_each_row_equals_the_sum_by_hand(s_dim, weights):
    torch.manual_seed(0)
    loss = ITRD((s_dim,), (6,), *weights, alpha=1.2)
    s, t = torch.randn(5, s_dim), torch.randn(5, 6)
    with torch.no_grad():
        a = loss.embed(s)
        c = correlation(a, t, 1.2)
        rows = mutual(a if s_dim != 6 else s, t)  # the second part reads the student itself where the dimensions agree
        expected = torch.tensor([weights[0] * c + weights[1] * row for row in rows])
        torch.testing.assert_close(loss(s, t), expected, rtol=1e-3, atol=1e-4)


def test_dead_features_and_identical_samples_get_no_huge_gradient():
    torch.manual_seed(1)
    loss = ITRD((4,), (4,))
    t = torch.randn(6, 4).relu()
    t[:, 2] = 0
    for s in (torch.randn(6, 4), torch.full((6, 4), 0.1), torch.randn(1, 4)):
        s.requires_grad_()
        rows = loss(s, t[: len(s)])
        rows.mean().backward()
        assert rows.isfinite().all()
        assert s.grad.abs().max() < 100
    perfect = ITRD((4,), (4,))
    with torch.no_grad():
        perfect.embed.weight.copy_(torch.eye(4))
        perfect.embed.bias.zero_()
    t = torch.randn(6, 4)
    assert perfect(t, t).isfinite().all()  # the logarithm's argument has the floor B^(-2 alpha) a dimension


def test_vectors_of_zero_are_in_no_trace():
    torch.manual_seed(2)
    a, b = torch.randn(6, 3), torch.randn(6, 4)
    a[1], b[2], b[3] = 0, 0, 0
    for x, y in ((a, b), (b, a), (a[:1], b[:1]), (a[1:2], b[1:2]), (a[2:3], b[2:3]), (a[1:4], b[1:4])):
        torch.testing.assert_close(itrd.mutual(x, y), torch.tensor(mutual(x, y)), rtol=1e-4, atol=1e-5)


def test_under_autocast_only_the_linear_layer_is_in_half_precision():
    torch.manual_seed(0)
    loss, s, t = ITRD((6,), (6,)), torch.randn(5, 6), torch.randn(5, 6)
    with torch.autocast("cpu", torch.bfloat16):
        rows, a = loss(s, t), loss.embed(s)
    expected = torch.tensor([2 * correlation(a, t, 1.01) + row for row in mutual(s, t)])
    torch.testing.assert_close(rows, expected, rtol=1e-4, atol=1e-4)
