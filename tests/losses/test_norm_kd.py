import math
import statistics

import pytest
import torch

from potstill.losses import NormKD


def log_softmax(z):
    total = math.log(sum(math.exp(x) for x in z))
    return [x - total for x in z]


@pytest.mark.parametrize("norm", [1.0, 2.0])
def test_each_sample_equals_the_sum_by_hand(norm):
    torch.manual_seed(0)
    s, t = 3 * torch.randn(5, 4), 3 * torch.randn(5, 4) + 1
    expected = []
    for zs, zt in zip(s.tolist(), t.tolist(), strict=True):
        Ts, Tt = norm * statistics.stdev(zs), norm * statistics.stdev(zt)
        log_p, log_q = log_softmax([z / Ts for z in zs]), log_softmax([z / Tt for z in zt])
        expected.append(Tt**2 * sum(math.exp(b) * (b - a) for a, b in zip(log_p, log_q, strict=True)))
    torch.testing.assert_close(NormKD(norm)(s, t), torch.tensor(expected), rtol=1e-4, atol=1e-5)


def test_the_students_scale_does_not_count_and_the_teachers_does():
    torch.manual_seed(1)
    s, t = torch.randn(4, 6), torch.randn(4, 6)
    torch.testing.assert_close(NormKD()(7 * s, t), NormKD()(s, t), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(NormKD()(s, 3 * t), 9 * NormKD()(s, t), rtol=1e-4, atol=1e-5)
