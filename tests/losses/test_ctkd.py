import math

import pytest
import torch

from potstill.errors import ModelError
from potstill.losses import CTKD, KD
from potstill.types import Batch


def at(progress, n=6):
    zeros = torch.zeros(n, dtype=torch.long)
    return Batch(torch.empty(0), zeros, zeros, zeros, progress=progress)


@pytest.fixture
def logits():
    torch.manual_seed(0)
    return torch.randn(6, 5, requires_grad=True), torch.randn(6, 5)


def test_starts_as_kd_at_a_temperature_of_15_6(logits):
    s, t = logits
    T = 1 + 20 / (1 + math.exp(-1))
    assert pytest.approx(15.62, abs=0.01) == T
    torch.testing.assert_close(CTKD()(s, t, at(0.5)), KD(T)(s, t), rtol=1e-4, atol=1e-6)


def slope(loss, s, t, eps=1e-2):
    """The derivative of the mean loss by theta, by central difference."""
    values = []
    for step in (eps, -eps):
        with torch.no_grad():
            loss.theta += step
            values.append(loss(s, t).mean().double())
            loss.theta -= step
    return float(values[0] - values[1]) / (2 * eps)


def test_the_temperature_climbs_the_loss_that_the_student_descends(logits):
    s, t = logits[0] * 5, logits[1] * 5
    loss = CTKD(low=1.0, span=20.0)
    with torch.no_grad():
        loss.theta.fill_(-2.0)
    expected = slope(loss, s.detach(), t)
    loss(s, t).mean().backward()
    assert abs(expected) > 1e-2
    assert float(loss.theta.grad) == pytest.approx(-expected, rel=1e-2)


@pytest.mark.parametrize(("progress", "strength"), [(0.0, 0.0), (0.05, 0.5), (0.1, 1.0), (0.9, 1.0)])
def test_the_reversal_grows_by_a_cosine(logits, progress, strength):
    s, t = logits
    loss, full = CTKD(ramp=0.1), CTKD(ramp=0.1)
    loss(s, t, at(progress)).mean().backward()
    full(s, t).mean().backward()
    torch.testing.assert_close(loss.theta.grad, strength * full.theta.grad)


def test_the_students_gradient_is_kds_and_not_reversed(logits):
    s, t = logits
    loss = CTKD()
    (mine,) = torch.autograd.grad(loss(s, t).sum(), s)
    (plain,) = torch.autograd.grad(KD(loss.temperature(s, t).item())(s, t).sum(), s)
    torch.testing.assert_close(mine, plain, rtol=1e-4, atol=1e-6)


def test_by_instance_each_sample_has_its_own_temperature(logits):
    s, t = logits
    torch.manual_seed(1)
    loss = CTKD("instance", s_shape=(5,))
    rows = loss(s, t, at(0.5))
    T = loss.temperature(s, t).detach()
    assert T.shape == (6,)
    assert len(set(T.tolist())) == 6
    for i in range(6):
        torch.testing.assert_close(rows[i : i + 1], KD(float(T[i]))(s[i : i + 1], t[i : i + 1]), rtol=1e-4, atol=1e-6)
    (mine,) = torch.autograd.grad(rows.sum(), s, retain_graph=True)
    plain = sum(KD(float(T[i]))(s[i : i + 1], t[i : i + 1]).sum() for i in range(6))
    torch.testing.assert_close(mine, torch.autograd.grad(plain, s)[0], rtol=1e-4, atol=1e-6)  # none through T
    before = rows.mean()
    before.backward()
    with torch.no_grad():
        for p in loss.parameters():
            p -= 0.1 * p.grad  # the optimizer's descent is the temperature's ascent
    assert loss(s, t).mean() > before
    with pytest.raises(ModelError, match="shape of the logits"):
        CTKD("instance")


def test_a_ramp_of_the_whole_training_and_of_nothing():
    assert CTKD(ramp=1.0).strength(at(0.5)) == pytest.approx(0.5)
    assert CTKD(ramp=0.0).strength(at(0.0)) == 1


def test_half_precision_is_left_before_anything_is_computed(logits):
    s, t = logits
    half = s.detach().half()
    loss = CTKD(standardize=True)
    assert torch.equal(loss(half, t), loss(half.float(), t))
    instance = CTKD("instance", s_shape=(5,))
    with torch.autocast("cpu", torch.bfloat16):
        assert instance.temperature(s, t).dtype == torch.float32
