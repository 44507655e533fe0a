import pytest
import torch
from torch.autograd import gradcheck

from potstill.errors import ModelError
from potstill.losses import KDSVD
from potstill.losses.kdsvd import first_eigenvectors, first_right


def shapes(maps):
    return [tuple(f.shape[1:]) for f in maps]


def test_equals_repdistiller(golden):
    g = golden("kdsvd.k2")
    rows = KDSVD(shapes(g["student_*"]), shapes(g["teacher_*"]), k=2)(g["student_*"], g["teacher_*"])
    torch.testing.assert_close(rows.mean(), g.loss, rtol=1e-4, atol=1e-7)
    g.check(rows, rtol=1e-2)


def naive(s, t, k):
    """By torch.linalg.svd in float64, one sample after the other."""
    rows = []
    for b in range(len(s[0])):
        before, total = None, 0
        for f, g in zip(s, t, strict=True):
            x, y = f[b].double().flatten(1).mT, g[b].double().flatten(1).mT
            v_s = torch.linalg.svd(x, full_matrices=False)[2].mT[:, : k + 3]
            _, sigma, v_t = torch.linalg.svd(y, full_matrices=False)
            v_t, scale = v_t.mT[:, :k], sigma[:k] / sigma[:k].norm()
            v_t = v_t * torch.where(v_t.sum(0) < 0, -1.0, 1.0)
            cos = v_s.mT @ v_t
            best = cos.abs().argmax(0)
            v_s = v_s[:, best] * torch.stack([cos[i, j].sign() for j, i in enumerate(best)])
            now = (v_s * scale, v_t * scale)
            if before is not None:
                k_s, k_t = (
                    torch.exp(-((new[:, None] - old[None]) ** 2) / 8) for new, old in zip(now, before, strict=True)
                )
                total = total + ((k_s - k_t) ** 2).sum()
            before = now
        rows.append(total)
    return torch.stack(rows)


@pytest.mark.parametrize("k", [1, 3])
def test_value_and_gradient_by_hand(k):
    torch.manual_seed(0)
    s = [torch.randn(2, 6, 4, 3, requires_grad=True), torch.randn(2, 9, 2, 3, requires_grad=True)]  # HW > C, HW < C
    t = [torch.randn(2, 6, 4, 4), torch.randn(2, 9, 2, 2)]
    rows, expected = KDSVD(shapes(s), shapes(t), k, signs="positive")(s, t), naive(s, t, k)
    torch.testing.assert_close(rows.double(), expected, rtol=1e-4, atol=1e-7)
    got, wanted = torch.autograd.grad(rows.sum(), s), torch.autograd.grad(expected.sum(), s)
    for a, b in zip(got, wanted, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-2, atol=1e-2 * float(b.abs().max()))


def test_eigenvectors_pass_a_gradient_check():
    torch.manual_seed(0)
    x = torch.randn(2, 5, 5, dtype=torch.float64, requires_grad=True)

    def projections(x):  # free of the signs
        v = first_eigenvectors(x @ x.mT, 2)
        return v[:, :, None] * v[:, None]

    assert gradcheck(projections, (x,), atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("size", [(8, 8), (2, 2)])
def test_equal_singular_values_give_finite_values_and_gradients(size):
    """The backward of the SVD divides by their differences: NaN."""
    n, C = size[0] * size[1], 6
    flat = torch.eye(n, C).mT.reshape(1, C, *size)  # all singular values 1
    for s in (flat, torch.zeros_like(flat), torch.ones_like(flat), torch.cat([flat, torch.ones_like(flat)])):
        s = s.clone().requires_grad_()
        rows = KDSVD([(C, *size)] * 2, [(C, *size)] * 2, k=2)([s, s * 2], [torch.randn_like(s), torch.randn_like(s)])
        rows.sum().backward()
        assert rows.isfinite().all()
        assert s.grad.isfinite().all()
        assert s.grad.abs().max() < 1e3


def test_a_direction_that_the_map_lacks_has_no_huge_gradient():
    torch.manual_seed(0)
    rank_one = (torch.randn(2, 20, 1) @ torch.randn(2, 1, 40)).requires_grad_()
    first_right(rank_one, 4).square().sum().backward()
    assert rank_one.grad.abs().max() < 1e3


def test_positive_signs_do_not_depend_on_the_solver():
    torch.manual_seed(0)
    s, t = ([torch.randn(2, 6, 3, 3), torch.randn(2, 8, 2, 2)] for _ in range(2))
    loss = KDSVD(shapes(s), shapes(t), k=2, signs="positive")
    flipped = [t[0], -t[1]]  # the same singular vectors up to their sign
    torch.testing.assert_close(loss(s, t), loss(s, flipped), rtol=1e-4, atol=1e-6)


def test_unequal_channels_and_single_maps_are_refused_with_a_way_out():
    with pytest.raises(ModelError, match=r"\[3, 5\] and \[3, 6\](.|\n)*nst"):
        KDSVD([(3, 4, 4), (5, 2, 2)], [(3, 4, 4), (6, 2, 2)])
    with pytest.raises(ModelError, match="two spots"):
        KDSVD((3, 4, 4), (3, 4, 4))


def test_more_vectors_than_a_map_has_are_refused():
    with pytest.raises(ModelError, match=r"k=3(.|\n)*has 2"):
        KDSVD([(5, 4, 4), (5, 2, 1)], [(5, 4, 4), (5, 2, 1)], k=3)
    with pytest.raises(ModelError, match=r"k=3(.|\n)*has 2"):
        KDSVD([(2, 4, 4), (5, 4, 4)], [(2, 4, 4), (5, 4, 4)], k=3)
    KDSVD([(3, 4, 4), (5, 3, 1)], [(3, 4, 4), (5, 3, 1)], k=3)


@pytest.mark.parametrize("signs", ["solver", "positive"])
def test_no_gradient_reaches_the_teacher(signs):
    torch.manual_seed(0)
    s, t = ([torch.randn(2, 6, 3, 3, requires_grad=True), torch.randn(2, 8, 2, 2, requires_grad=True)] for _ in "st")
    KDSVD(shapes(s), shapes(t), signs=signs)(s, t).sum().backward()
    assert all(f.grad is not None for f in s)
    assert all(g.grad is None for g in t)


@pytest.mark.parametrize(("n", "m"), [(3, 7), (7, 3)])
def test_the_smaller_gram_matrix_is_decomposed(n, m, monkeypatch):
    sizes = []

    def counted(gram, k):
        sizes.append(gram.shape[-1])
        return first_eigenvectors(gram, k)

    monkeypatch.setattr("potstill.losses.kdsvd.first_eigenvectors", counted)
    assert first_right(torch.randn(1, n, m), 2).shape == (1, m, 2)
    assert sizes == [3]


def test_a_direction_that_the_map_hardly_has_is_short_by_a_constant():
    """The second singular value is 1e-4 of the first: its vector gets 1e-4 / 1e-3 of the length, a tenth."""
    a, b = (torch.tensor(x, dtype=torch.float64, requires_grad=True) for x in (10.0, 0.001))
    x = torch.stack([torch.stack([a, a * 0, a * 0]), torch.stack([b * 0, b, b * 0])])[None]
    length = first_right(x, 2)[0, :, 1].norm()
    assert length.item() == pytest.approx(0.1)
    by_a, by_b = torch.autograd.grad(length, (a, b))
    assert by_a.abs() < 1e-9  # what it is divided by is a constant
    assert by_b.item() == pytest.approx(100.0)


@pytest.mark.parametrize(("top", "gap"), [(4.0, 4e-5), (1e-7, 2e-12)])
def test_the_backward_is_bounded_where_eigenvalues_are_close(top, gap):
    gram = torch.diag(torch.tensor([top, top - gap, top / 4], dtype=torch.float64))[None].requires_grad_()
    first_eigenvectors(gram, 1)[0, 1, 0].backward()
    bound = 1e-5 * top + 1e-12
    assert gram.grad[0, 0, 1].abs().item() == pytest.approx(gap / (gap**2 + bound**2) / 2, rel=1e-3)
    assert torch.equal(gram.grad, gram.grad.mT)
