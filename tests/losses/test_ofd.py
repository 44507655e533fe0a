import pytest
import torch
from torch import nn

from potstill.errors import ModelError
from potstill.losses import OFD
from potstill.losses.ofd import Margin, margin, partial_l2


def test_equals_the_reference(golden):
    g = golden("ofd.partial_l2")
    margins = g.inputs.pop("margin").flatten()
    g.check(partial_l2(g["student"], g["teacher"], margins))


def test_the_parts_of_the_distance_by_hand():
    s = torch.tensor([-3.0, -1.5, -0.2, 2.0]).view(1, 1, 2, 2)
    for target, expected in (
        (-5.0, 0 + 0 + 0.8**2 + 3.0**2),  # below the margin -1: as if the margin
        (-0.5, 0 + 0 + 0.3**2 + 2.5**2),  # no pull upwards where the ReLU cuts anyway
        (1.0, 4.0**2 + 2.5**2 + 1.2**2 + 1.0),
    ):
        got = partial_l2(s, torch.full_like(s, target), torch.tensor([-1.0]))
        assert got.item() == pytest.approx(expected, rel=1e-5)


def test_stages_are_weighted_and_the_larger_map_is_averaged():
    torch.manual_seed(0)
    margins = [torch.full((4,), -0.5), torch.full((6,), -0.7)]
    loss = OFD([(3, 4, 4), (5, 2, 2)], [(4, 2, 2), (6, 2, 2)], margins).eval()
    s = [torch.randn(2, 3, 4, 4), torch.randn(2, 5, 2, 2)]
    t = [torch.randn(2, 4, 2, 2), torch.randn(2, 6, 2, 2)]
    parts = [
        partial_l2(loss.connectors[0](nn.functional.avg_pool2d(s[0], 2)), t[0], margins[0]) / 2,
        partial_l2(loss.connectors[1](s[1]), t[1], margins[1]),
    ]
    torch.testing.assert_close(loss(s, t), sum(parts) / 1000)


def test_margin_is_the_mean_of_what_a_batchnorm_gives_below_zero():
    torch.manual_seed(0)
    weight, bias = torch.tensor([1.5, -0.7, 2.0]), torch.tensor([0.3, -1.0, 1.0])
    x = weight * torch.randn(2_000_000, 3) + bias
    measured = torch.stack([x[:, c][x[:, c] < 0].mean() for c in range(3)])
    torch.testing.assert_close(margin(weight, bias), measured, rtol=0.01, atol=0)
    torch.testing.assert_close(margin(torch.tensor([0.5]), torch.tensor([9.0])), torch.tensor([-1.5]))
    assert margin(torch.zeros(1), torch.ones(1)).isfinite().all()  # a pruned channel


def test_without_a_batchnorm_the_margin_is_the_running_mean_of_negative_values():
    torch.manual_seed(0)
    running = Margin(3, None)
    seen = [torch.randn(4, 3, 2, 2) for _ in range(3)]
    for t in seen:
        value = running(t)
    everything = torch.cat(seen)
    expected = torch.stack([everything[:, c][everything[:, c] < 0].mean() for c in range(3)])
    torch.testing.assert_close(value, expected)
    running.eval()
    torch.testing.assert_close(running(10 * seen[0]), expected)
    other = Margin(3, None)
    other.load_state_dict(running.state_dict())
    torch.testing.assert_close(other(seen[0]), running.train()(seen[0]))
    assert Margin(2, None)(torch.ones(1, 2, 1, 1)).tolist() == [0, 0]  # nothing below zero


def test_refuses_to_drop_stages():
    with pytest.raises(ModelError, match="as many"):
        OFD([(3, 4, 4)], [(4, 2, 2), (6, 2, 2)])


def test_connectors_are_drawn_as_in_the_authors_code():
    torch.manual_seed(0)
    weight = OFD((40, 4, 4), (90, 4, 4)).connectors[0][0].weight
    assert weight.std().item() == pytest.approx((2 / 90) ** 0.5, rel=0.05)
    assert abs(weight.mean().item()) < 0.01


def test_the_margin_of_a_dead_channel_and_of_a_rarely_negative_one():
    dead = margin(torch.zeros(3), torch.tensor([0.0, 1.0, -1.0]))
    assert torch.isfinite(dead).all()
    assert dead.tolist() == pytest.approx([0.0, 0.0, -1.0], abs=1e-6)
    z = torch.special.ndtri(torch.tensor(1 - 0.0015, dtype=torch.float64)).float()  # 1.5 in a thousand are negative
    density = (-z.double().square() / 2).exp() / (2 * torch.pi) ** 0.5
    expected = (z - density / 0.0015).item()  # the mean of the negative ones, not -3 sigma
    assert margin(torch.ones(1), z[None]).item() == pytest.approx(expected, rel=1e-3)
    assert margin(torch.ones(1), z[None] + 1).item() == -3.0


def test_margins_are_numbers_not_functions_of_the_teacher():
    assert not margin(nn.Parameter(torch.ones(2)), torch.zeros(2)).requires_grad
    assert not margin(torch.ones(2), nn.Parameter(torch.zeros(2))).requires_grad


def test_given_margins_stay_and_measured_ones_count_what_they_saw():
    given = nn.Parameter(torch.tensor([-0.5, -1.0]))
    fixed = Margin(2, given).train()
    t = torch.randn(3, 2, 4, 4, requires_grad=True)
    assert torch.equal(fixed(t), given)
    assert not fixed.value.requires_grad
    measured = Margin(1, None).train()
    one = torch.ones(1, 1, 2, 2)
    one[..., 0, 0] = -3.0  # a single negative value
    assert measured(one.requires_grad_()).tolist() == [-3.0]
    assert not measured(one).requires_grad
