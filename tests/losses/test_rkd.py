import math

import pytest
import torch

from potstill.losses import RKD


@pytest.mark.parametrize(
    ("case", "d", "a"), [("rkd.d25.a50", 25.0, 50.0), ("rkd.distance", 1.0, 0.0), ("rkd.angle", 0.0, 1.0)]
)
def test_equals_repdistiller(golden, case, d, a):
    g = golden(case)
    g.check(RKD(d, a)(g["student"], g["teacher"]))


def huber(x):
    return 0.5 * x * x if abs(x) < 1 else abs(x) - 0.5


def by_hand(s, t, wd, wa):
    """Each vertex, pair by pair and triple by triple, from differences of vectors in float64."""
    B = len(s)

    def relations(x):
        x = x.double().tolist()
        d = [[math.dist(p, q) for q in x] for p in x]
        mean = sum(map(sum, d)) / (B * (B - 1))

        def cos(i, j, k):
            if i in (j, k):
                return 0.0
            dot = sum((q - p) * (r - p) for p, q, r in zip(x[i], x[j], x[k], strict=True))
            return dot / d[i][j] / d[i][k]

        return [[v / mean for v in row] for row in d], cos

    (ds, cs), (dt, ct) = relations(s), relations(t)
    n = range(B)
    return torch.tensor(
        [
            wd * sum(huber(ds[i][j] - dt[i][j]) for j in n) / B
            + wa * sum(huber(cs(i, j, k) - ct(i, j, k)) for j in n for k in n) / B**2
            for i in n
        ]
    )


def test_each_vertex_equals_the_sum_by_hand():
    torch.manual_seed(0)
    s, t = torch.randn(6, 3) + 5, 9 * torch.randn(6, 2, 2)
    s[0] *= 4  # differences beyond 1, where Huber's loss is linear
    expected = by_hand(s, t.flatten(1), 25.0, 50.0)
    torch.testing.assert_close(RKD()(s, t), expected, rtol=1e-3, atol=1e-4)


def test_shift_scale_and_rotation_of_either_side_do_not_count():
    torch.manual_seed(1)
    s, t = torch.randn(6, 3), torch.randn(6, 4)
    turn = torch.linalg.qr(torch.randn(3, 3))[0]
    torch.testing.assert_close(RKD()(7 * s @ turn + 2, t), RKD()(s, t), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("apart", [1e-6, 1e-5, 1e-4])
def test_samples_that_are_one_add_no_noise(seed, apart):
    torch.manual_seed(seed)
    s = torch.randn(6, 64) + 3
    s[1] = s[0] + apart * torch.randn(64)  # their distance by the Gram matrix is rounding noise, its slope 1 / noise
    s.requires_grad_()
    RKD()(s, torch.randn(6, 32)).mean().backward()
    assert s.grad.abs().max() < 1


def test_one_sample_and_identical_samples_have_loss_zero():
    for x in (torch.randn(1, 4), torch.ones(3, 4)):
        x.requires_grad_()
        rows = RKD()(x, x.detach())
        rows.sum().backward()
        assert (rows == 0).all()
        assert (x.grad == 0).all()


def test_neither_a_far_batch_nor_a_small_one_loses_its_relations():
    torch.manual_seed(2)
    s, t = torch.randint(-64, 65, (6, 3)) / 64, torch.randn(6, 4)  # exact, also a thousand away
    torch.testing.assert_close(RKD()(s + 1000, t), RKD()(s, t), rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(RKD()(0.01 * s, t), RKD()(s, t), rtol=1e-3, atol=1e-4)
