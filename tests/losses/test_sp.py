import torch

from potstill.losses import SP
from potstill.losses._relations import gram


def test_equals_repdistiller(golden):
    g = golden("sp")
    g.check(SP()(g["student"], g["teacher"]))


def test_each_row_equals_the_sum_by_hand():
    torch.manual_seed(0)
    s, t = torch.randn(4, 3), torch.randn(4, 2, 2, 2)

    def row(x, b):
        x = x.flatten(1).double().tolist()
        products = [sum(p * q for p, q in zip(x[b], other, strict=True)) for other in x]
        length = sum(p * p for p in products) ** 0.5
        return [p / length for p in products]

    expected = [sum((p - q) ** 2 for p, q in zip(row(s, b), row(t, b), strict=True)) / 4 for b in range(4)]
    torch.testing.assert_close(SP()(s, t), torch.tensor(expected), rtol=1e-4, atol=1e-6)


def test_half_precision_does_not_overflow():
    torch.manual_seed(1)
    s, t = 200 * torch.randn(4, 512), 200 * torch.randn(4, 512)
    half = SP()(s.half(), t.half())
    torch.testing.assert_close(half, SP()(s, t), rtol=1e-2, atol=1e-4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(SP()(s, t), SP()(s.float(), t))
    torch.testing.assert_close(SP()(s, t), SP()(s * 1e-6, t), rtol=1e-3, atol=1e-6)  # nor underflow


def test_the_gram_matrix_has_the_slope_of_the_product():
    x = torch.randn(2, 4, 9, dtype=torch.float64, requires_grad=True)
    assert torch.equal(gram(x), x @ x.mT)
    assert torch.autograd.gradcheck(gram, x)
    assert torch.autograd.gradgradcheck(gram, x)
