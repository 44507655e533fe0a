import math

import pytest
import torch

from potstill.errors import ModelError
from potstill.losses import NKD
from potstill.types import Batch


def batch(y):
    return Batch(torch.empty(0), torch.as_tensor(y), torch.arange(len(y)), torch.zeros(len(y)))


def softmax(z):
    e = [math.exp(x) for x in z]
    return [x / sum(e) for x in e]


@pytest.mark.parametrize(("T", "gamma"), [(1.0, 1.5), (3.0, 3.5), (2.0, 0.0)])
def test_each_sample_equals_the_sum_by_hand(T, gamma):
    torch.manual_seed(0)
    s, t, y = 3 * torch.randn(5, 4), 3 * torch.randn(5, 4), [3, 0, 1, 1, 2]
    expected = []
    for zs, zt, label in zip(s.tolist(), t.tolist(), y, strict=True):
        value = -softmax(zt)[label] * math.log(softmax(zs)[label])
        hs, ht = (softmax([z / T for c, z in enumerate(zz) if c != label]) for zz in (zs, zt))
        value -= gamma * T * T * sum(b * math.log(a) for a, b in zip(hs, ht, strict=True))
        expected.append(value)
    torch.testing.assert_close(NKD(T, gamma)(s, t, batch(y)), torch.tensor(expected), rtol=1e-4, atol=1e-5)


def test_the_best_student_is_the_teacher_on_the_other_classes():
    t = torch.tensor([[2.0, 1.0, 0.0, -1.0]])
    s = torch.tensor([[2.0, 0.0, 0.0, 0.0]], requires_grad=True)
    NKD()(s, t, batch([0])).sum().backward()
    # descent raises class 1 and lowers class 3 against one another, towards the teacher's order
    assert s.grad[0, 1] < s.grad[0, 2] < s.grad[0, 3]


def test_two_classes_are_refused_and_no_label_gives_zero():
    with pytest.raises(ModelError, match="kd"):
        NKD()(torch.zeros(1, 2), torch.zeros(1, 2), batch([0]))
    assert NKD()(torch.randn(1, 3), torch.randn(1, 3), batch([-1])) == 0
