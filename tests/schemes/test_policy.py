"""Decisions: exact probabilities, a hand-derived gradient, temperature."""

from __future__ import annotations

import math

import pytest
import torch

from potstill.errors import ConfigError
from potstill.schemes.policy import Policy, gumbel, probability


def test_the_straight_through_gradient_by_hand() -> None:
    """l + g = (1.5, 0.5), tau = 2: y0 = sigmoid(0.5), da/dl0 = y0 (1 - y0) / 2 = 0.11750186, da/dl1 = -that."""
    logits = torch.tensor([[[1.0, 0.0]]], requires_grad=True)
    a = gumbel(logits, 2.0, torch.tensor([[[0.5, 0.5]]]))
    assert a.item() == 1.0
    (3 * a).sum().backward()
    assert logits.grad is not None
    slope = 3 * 0.11750186  # sigmoid(0.5) = 0.62245933
    assert torch.allclose(logits.grad, torch.tensor([[[slope, -slope]]]), atol=1e-6)


def test_decisions_are_exactly_zero_or_one() -> None:
    torch.manual_seed(0)
    a = gumbel(torch.randn(4000, 3, 2), 0.7)
    assert set(a.unique().tolist()) == {0.0, 1.0}


@pytest.mark.parametrize("temperature", [0.1, 1.0, 5.0])
def test_the_exact_probability_is_that_of_the_draws_at_any_temperature(temperature: float) -> None:
    torch.manual_seed(0)
    logits = torch.tensor([[2.0, 1.0], [0.0, 0.0], [-1.0, 1.0]])
    assert torch.allclose(
        probability(logits), torch.tensor([1 / (1 + math.exp(-1)), 0.5, 1 / (1 + math.exp(2))]), atol=1e-6
    )
    drawn = gumbel(logits.expand(40_000, 3, 2), temperature).mean(0)
    assert (drawn - probability(logits)).abs().max() < 0.01  # 4 standard errors


def test_a_higher_temperature_gives_smaller_slopes() -> None:
    slopes = []
    for temperature in (5.0, 1.0):
        torch.manual_seed(0)
        logits = torch.zeros(5000, 1, 2, requires_grad=True)
        gumbel(logits, temperature).sum().backward()
        slopes.append(logits.grad[..., 0].mean().item())  # type: ignore[index]
    assert slopes[0] == pytest.approx(0.048, abs=0.002)
    assert slopes[1] == pytest.approx(1 / 6, abs=0.005)
    with pytest.raises(ConfigError, match="above 0, got 0"):
        gumbel(torch.zeros(1, 1, 2), 0)


@pytest.mark.parametrize("hidden", [0, 7])
def test_the_policy_reads_both_vectors_and_teaches_neither_net(hidden: int) -> None:
    torch.manual_seed(0)
    policy = Policy(5, 4, hidden)
    v_t, v_s = torch.randn(3, 2, requires_grad=True), torch.randn(3, 3, requires_grad=True)
    logits = policy(v_t, v_s)
    assert logits.shape == (3, 4, 2)
    logits.sum().backward()
    assert v_t.grad is None
    assert v_s.grad is None
    assert all(p.grad is not None for p in policy.parameters())
    assert not torch.equal(policy(v_t + 1, v_s), logits)
    assert not torch.equal(policy(v_t, v_s + 1), logits)
    assert (sum(p.numel() for p in policy.parameters()) == 5 * 8 + 8) == (hidden == 0)


def test_the_initial_bias_says_teacher_at_every_spot() -> None:
    torch.manual_seed(0)
    plain = Policy(2, 3)
    torch.manual_seed(0)
    biased = Policy(2, 3, initial_bias=10.0)
    v = torch.zeros(1, 1)
    assert torch.allclose(biased(v, v) - plain(v, v), torch.tensor([10.0, 0.0]).expand(1, 3, 2), atol=1e-6)
    assert (probability(biased(v, v)) > 0.9998).all()
