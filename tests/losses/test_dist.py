import statistics

import pytest
import torch

from potstill.losses import DIST


@pytest.mark.parametrize(("case", "T", "w"), [("dist.b1.g1.tau1", 1.0, 1.0), ("dist.b2.g2.tau4", 4.0, 2.0)])
def test_equals_the_authors_code(golden, case, T, w):
    g = golden(case)
    g.check(DIST(T, w, w)(g["student_logits"], g["teacher_logits"]))


def test_the_two_parts_equal_pearsons_correlation_by_hand():
    torch.manual_seed(0)
    s, t = torch.randn(6, 4), torch.randn(6, 4)
    p, q = (s / 2).softmax(1).double().tolist(), (t / 2).softmax(1).double().tolist()
    classes = torch.tensor([1 - statistics.correlation(a, b) for a, b in zip(p, q, strict=True)])
    columns = [
        1 - statistics.correlation(a, b) for a, b in zip(zip(*p, strict=True), zip(*q, strict=True), strict=True)
    ]
    torch.testing.assert_close(DIST(2.0, 1.0, 0.0)(s, t), 4 * classes, rtol=1e-4, atol=1e-5)
    expected = torch.full((6,), 4 * statistics.mean(columns))
    torch.testing.assert_close(DIST(2.0, 0.0, 1.0)(s, t), expected, rtol=1e-4, atol=1e-5)


def test_a_head_that_starts_at_zero_gets_no_huge_gradient():
    s = torch.zeros(6, 4, requires_grad=True)
    DIST()(s, torch.randn(6, 4)).mean().backward()
    assert s.grad.abs().max() < 1


def test_a_perfect_student_has_loss_zero():
    torch.manual_seed(1)
    z = torch.randn(6, 4)
    torch.testing.assert_close(DIST(4.0)(z, z), torch.zeros(6), atol=1e-4, rtol=0)


def test_nearly_constant_probabilities_are_damped_by_epsilon():
    torch.manual_seed(2)
    s, t = 2e-4 * torch.randn(6, 4), 2e-4 * torch.randn(6, 4)
    p, q = (z.double().softmax(1) for z in (s, t))
    p, q = p - p.mean(1, keepdim=True), q - q.mean(1, keepdim=True)
    size = p.norm(dim=1) * q.norm(dim=1)
    assert (size < 1e-7).all()
    expected = 1 - (p * q).sum(1) / (size + 1e-8)
    torch.testing.assert_close(DIST(1.0, 1.0, 0.0)(s, t).double(), expected, rtol=0, atol=1e-2)


def test_a_constant_class_or_sample_counts_as_uncorrelated_without_gradient():
    torch.manual_seed(3)
    s, t = torch.randn(6, 4), torch.randn(6, 4)
    for which in "st":
        x, y = s.clone(), t.clone()
        (x if which == "s" else y)[2] = 5.0  # a sample whose classes are alike
        x.requires_grad_()
        rows = DIST(1.0, 1.0, 0.0)(x, y)
        assert rows[2] == 1
        rows.sum().backward()
        assert x.grad[2].abs().max() == 0
        assert (x.grad[:2].abs().amax(1) > 0).all()
        x, y = s.clone(), t.clone()
        (x if which == "s" else y)[:, 1] = -400.0  # a class that is impossible for all
        x.requires_grad_()
        rows = DIST(1.0, 0.0, 1.0)(x, y)
        rows.sum().backward()
        p, q = (z.detach().double().softmax(1)[:, [0, 2, 3]] for z in (x, y))
        others = torch.stack([torch.corrcoef(torch.stack([p[:, i], q[:, i]]))[0, 1] for i in range(3)]).sum()
        torch.testing.assert_close(rows.double(), (1 - others / 4).expand(6), rtol=1e-5, atol=1e-5)
        assert x.grad.isfinite().all()


def test_classes_that_are_all_but_impossible_for_both_nets_have_a_finite_gradient():
    torch.manual_seed(4)
    s, t = torch.randn(6, 4), torch.randn(6, 4)
    s[:, 1] -= 42  # sums of squares of 1e-36, whose product is 0 in float32
    t[:, 1] -= 42
    s.requires_grad_()
    DIST()(s, t).sum().backward()
    assert s.grad.isfinite().all()


def test_what_rounding_leaves_of_a_constant_is_not_a_direction():
    torch.manual_seed(5)
    for C in range(3, 60):
        s, constant = torch.randn(2, C, requires_grad=True), torch.zeros(2, C)
        rows = DIST(1.0, 1.0, 0.0)(s, constant)
        assert (rows == 1).all()
        assert torch.autograd.grad(rows.sum(), s)[0].abs().max() == 0
        z = torch.zeros(2, C, requires_grad=True)
        assert torch.autograd.grad(DIST(1.0, 1.0, 0.0)(z, s.detach()).sum(), z)[0].abs().max() == 0


def test_a_rare_class_still_has_a_direction():
    torch.manual_seed(6)
    s, t = torch.randn(6, 4), torch.randn(6, 4)
    s[:, 1] -= 16
    p, q = (z.double().softmax(1) for z in (s, t))
    p, q = p - p.mean(0), q - q.mean(0)
    assert p[:, 1].norm() < 1e-6
    expected = 1 - ((p * q).sum(0) / (p.norm(dim=0) * q.norm(dim=0) + 1e-8)).mean()
    torch.testing.assert_close(DIST(1.0, 0.0, 1.0)(s, t).double(), expected.expand(6), rtol=1e-5, atol=1e-5)
