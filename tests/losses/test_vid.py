import math

import pytest
import torch
from torch import nn

from potstill.errors import ModelError
from potstill.losses import VID
from potstill.losses.vid import surprise


def test_equals_repdistiller(golden):
    g = golden("vid")
    rows = surprise(g["student_mean"], g["log_scale"], g["teacher"])
    assert rows.shape == (len(g["teacher"]),)
    torch.testing.assert_close(rows.mean(), g.loss, rtol=1e-4, atol=1e-7)
    rows.mean().backward()
    for name, expected in g.grads.items():
        torch.testing.assert_close(g[name].grad, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))


def test_sums_the_stages_and_averages_the_larger_map():
    torch.manual_seed(0)
    loss = VID([(3, 4, 4), (5, 2, 2)], [(4, 2, 2), (6, 4, 4)])
    s = [torch.randn(2, 3, 4, 4), torch.randn(2, 5, 2, 2)]
    t = [torch.randn(2, 4, 2, 2), torch.randn(2, 6, 4, 4)]
    pool = nn.AvgPool2d(2)
    expected = 0
    for f, g, mean, scale in zip((pool(s[0]), s[1]), (t[0], pool(t[1])), loss.mean, loss.scale, strict=True):
        variance = torch.log1p(scale.double().exp())[:, None, None] + 1e-5
        squares = (mean(f).double() - g.double()) ** 2 / variance
        expected = expected + (0.5 * (squares + variance.log())).mean((1, 2, 3))
    torch.testing.assert_close(loss(s, t).double(), expected, rtol=1e-5, atol=1e-6)


def test_the_variance_starts_as_asked_and_is_trained():
    loss = VID((3, 4, 4), (4, 4, 4), variance=5.0)
    torch.testing.assert_close(nn.functional.softplus(loss.scale[0]) + 1e-5, torch.full((4,), 5.0))
    assert any(p is loss.scale[0] for p in loss.parameters())
    assert "scale.0" in loss.state_dict()


def test_a_huge_variance_does_not_overflow():
    scale = torch.full((4,), 500.0, requires_grad=True)
    rows = surprise(torch.randn(2, 4, 3, 3), scale, torch.randn(2, 4, 3, 3))
    rows.sum().backward()
    assert rows.isfinite().all()
    assert scale.grad.isfinite().all()


def test_refuses_to_drop_stages():
    with pytest.raises(ModelError, match="as many"):
        VID([(3, 4, 4), (5, 2, 2)], [(4, 2, 2)])


def test_the_variance_has_a_floor():
    mean, t = torch.randn(2, 4, 3, 3), torch.randn(2, 4, 3, 3)
    expected = 0.5 * ((mean - t).double().square() / 1e-5 + math.log(1e-5)).mean((1, 2, 3))
    rows = surprise(mean, torch.full((4,), -50.0), t)
    torch.testing.assert_close(rows.double(), expected, rtol=1e-5, atol=1e-5)
    for variance, starts in ((1e-3, 1e-3), (1e-6, 2e-5)):
        scale = VID((3, 4, 4), (4, 4, 4), variance=variance).scale[0]
        torch.testing.assert_close(nn.functional.softplus(scale) + 1e-5, torch.full((4,), starts), rtol=1e-3, atol=0)


def test_half_precision_is_widened_before_anything_is_computed():
    mean, scale, t = torch.randn(2, 4, 3, 3).bfloat16(), torch.full((4,), 2.0).bfloat16(), torch.randn(2, 4, 3, 3)
    torch.testing.assert_close(surprise(mean, scale, t), surprise(mean.float(), scale.float(), t), rtol=1e-6, atol=0)
