import math

import pytest
import torch
from torch.autograd import grad

from potstill.errors import ModelError
from potstill.losses import DKD, KD
from potstill.types import Batch


def batch(y, targets=None):
    return Batch(torch.empty(0), torch.as_tensor(y), torch.arange(len(y)), torch.zeros(len(y)), targets)


def by_hand(s, t, y, T, alpha, beta):
    """The paper's two parts, sample by sample and class by class, in Python floats."""
    rows = []
    for zs, zt, label in zip(s.tolist(), t.tolist(), y.tolist(), strict=True):
        ps, pt = ([math.exp(z / T) for z in zz] for zz in (zs, zt))
        ps, pt = ([p / sum(pp) for p in pp] for pp in (ps, pt))
        a, b = pt[label], ps[label]
        target = a * math.log(a / b) + (1 - a) * math.log((1 - a) / (1 - b))
        others = 0.0
        for c in range(len(zs)):
            if c != label:
                qt, qs = pt[c] / (1 - a), ps[c] / (1 - b)
                others += qt * math.log(qt / qs)
        rows.append(T * T * (alpha * target + beta * others))
    return torch.tensor(rows)


def test_equals_mdistiller(golden):
    g = golden("dkd.T4.a1.b8")
    g.check(DKD(4.0, 1.0, 8.0)(g["student_logits"], g["teacher_logits"], batch(g["labels"])))


@pytest.mark.parametrize(("T", "alpha", "beta"), [(4.0, 1.0, 8.0), (1.0, 0.5, 2.0), (2.0, 1.0, 0.0), (2.0, 0.0, 1.0)])
def test_each_sample_equals_the_sum_by_hand(T, alpha, beta):
    torch.manual_seed(0)
    s, t, y = 3 * torch.randn(6, 5), 3 * torch.randn(6, 5), torch.tensor([0, 4, 2, 2, 1, 3])
    rows = DKD(T, alpha, beta)(s, t, batch(y))
    torch.testing.assert_close(rows, by_hand(s, t, y, T, alpha, beta), rtol=1e-4, atol=1e-5)


def test_with_the_teachers_doubt_as_beta_it_is_kd():
    torch.manual_seed(1)
    s, t = torch.randn(1, 7), torch.randn(1, 7)
    doubt = 1 - float((t / 3).softmax(1)[0, 2])
    torch.testing.assert_close(DKD(3.0, 1.0, doubt)(s, t, batch([2])), KD(3.0)(s, t))


def test_a_gap_of_450_keeps_value_and_gradient():
    s = torch.tensor([[450.0, 0.0, -3.0, 2.0], [0.0, 450.0, 1.0, 0.0]], requires_grad=True)
    t = torch.tensor([[-450.0, 1.0, 0.0, 3.0], [450.0, 0.0, 0.5, 1.0]])
    rows = DKD(1.0)(s, t, batch([0, 1]))
    assert rows.isfinite().all()
    assert rows[0] > 440  # the coin: 1 * (0 - (-447.9))
    (slope,) = grad(rows.sum(), s)
    assert slope.isfinite().all()
    assert slope[0, 0] == pytest.approx(1.0)


def test_standardized_ignores_shift_and_scale():
    torch.manual_seed(2)
    s, t, b = torch.randn(4, 6), torch.randn(4, 6), batch([0, 1, 2, 3])
    loss = DKD(2.0, standardize=True)
    torch.testing.assert_close(loss(s, t, b), loss(5 * s + 3, 0.1 * t - 2, b), rtol=1e-4, atol=1e-5)
    assert not torch.allclose(DKD(2.0)(s, t, b), DKD(2.0)(5 * s + 3, 0.1 * t - 2, b))


def test_no_label_gives_zero_and_blended_samples_take_the_larger_share():
    torch.manual_seed(4)
    s, t = torch.randn(2, 4), torch.randn(2, 4)
    rows = DKD()(s, t, batch([-1, 3]))
    assert rows[0] == 0
    assert rows[1] > 0
    blended = torch.tensor([[0.7, 0.3, 0, 0], [0, 0, 0.2, 0.8]])
    torch.testing.assert_close(DKD()(s, t, batch([1, 2], targets=blended)), DKD()(s, t, batch([0, 3])))


def test_two_classes_are_refused_with_the_nearest_method():
    with pytest.raises(ModelError, match="kd"):
        DKD()(torch.zeros(3, 2), torch.zeros(3, 2), batch([0, 1, 0]))


def test_without_labels_it_says_what_is_missing():
    with pytest.raises(TypeError, match="batch"):
        DKD()(torch.zeros(3, 4), torch.zeros(3, 4))
