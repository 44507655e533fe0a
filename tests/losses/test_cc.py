import math

import pytest
import torch

from potstill.losses import CC
from potstill.losses.cc import neighbours


def test_neighbours_equal_repdistiller(golden):
    g = golden("cc.neighbour")
    g.check(neighbours(g["student_embedding"], g["teacher_embedding"]))


def test_half_of_a_pair_belongs_to_each_of_its_samples():
    a, b = torch.tensor([[1.0], [2.0], [5.0]]), torch.tensor([[0.0], [0.0], [1.0]])
    # differences 1, 2, 4: pairs 2 and 8, their mean 5
    torch.testing.assert_close(neighbours(a, b), torch.tensor([2.0, 10.0, 8.0]) * 3 / 4)
    assert neighbours(a[:1], b[:1]) == 0


def test_embeds_both_sides_and_trains_both():
    loss = CC((2, 2, 2), (3,), dim=4)
    s, t = torch.randn(5, 2, 2, 2), torch.randn(5, 3)
    rows = loss(s, t)
    torch.testing.assert_close(rows, neighbours(loss.embed_s(s.flatten(1)), loss.embed_t(t)))
    rows.mean().backward()
    assert all(p.grad.abs().sum() > 0 for p in loss.parameters())


@pytest.mark.parametrize(("gamma", "order"), [(0.4, 2), (0.7, 3), (0.4, 1)])
def test_the_kernel_equals_the_series_by_hand(gamma, order):
    torch.manual_seed(0)
    loss = CC((3,), (6,), form="kernel", dim=4, gamma=gamma, order=order)
    s, t = torch.randn(5, 3), torch.randn(5, 6)

    def kernel(e):
        e = [[x / math.hypot(*v) for x in v] for v in e.double().tolist()]
        k = range(order + 1)
        return [
            [
                math.exp(-2 * gamma)
                * sum(
                    (2 * gamma) ** p / math.factorial(p) * sum(x * y for x, y in zip(v, w, strict=True)) ** p for p in k
                )
                for w in e
            ]
            for v in e
        ]

    with torch.no_grad():
        a, b = kernel(loss.embed_s(s)), kernel(loss.embed_t(t))
        expected = [sum((x - y) ** 2 for x, y in zip(v, w, strict=True)) / 5 for v, w in zip(a, b, strict=True)]
        torch.testing.assert_close(loss(s, t), torch.tensor(expected), rtol=1e-3, atol=1e-7)


def test_a_high_order_approaches_the_gaussian_kernel():
    torch.manual_seed(1)
    loss = CC((3,), (3,), form="kernel", order=12)
    e = torch.nn.functional.normalize(torch.randn(4, 3))
    torch.testing.assert_close(loss.kernel(e), torch.exp(-0.4 * torch.cdist(e, e).square()), rtol=1e-4, atol=1e-5)


def test_two_samples_are_one_pair():
    a, b = torch.tensor([[1.0, 2.0], [3.0, 1.0]]), torch.zeros(2, 2)
    torch.testing.assert_close(neighbours(a, b), torch.tensor([5.0, 5.0]))


def test_relations_are_in_float32_where_embeddings_are_not():
    torch.manual_seed(2)
    loss = CC((3,), (6,), form="kernel", dim=4)
    s, t = torch.randn(5, 3), torch.randn(5, 6)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        a, b = loss.embed_s(s), loss.embed_t(t)
        rows = loss(s, t)
    expected = (loss.kernel(a.float()) - loss.kernel(b.float())).square().mean(1)
    torch.testing.assert_close(rows, expected, rtol=1e-5, atol=0)


def test_a_sample_without_a_neighbour_that_equals_its_teacher():
    e = torch.ones(1, 3, requires_grad=True)
    rows = neighbours(e, e.detach())
    rows.sum().backward()
    assert rows == 0
    assert e.grad.tolist() == [[0, 0, 0]]
