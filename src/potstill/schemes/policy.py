"""Who decides, for each sample and spot, whether the teacher is needed: a small network, and choices with a gradient."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from potstill.errors import ConfigError


class Policy(nn.Module):
    r"""Reads what both nets know of a sample and gives, for each spot, two logits: the teacher's way, the student's way.

    .. math:: l = W\,[\mathrm{sg}(v^t), \mathrm{sg}(v^s)] + b \in R^{n \times 2}, \qquad P(\text{teacher}) = \sigma(l_0 - l_1)

    The vectors are detached: nothing of the policy reaches the nets.

    Args:
        inputs: length of both vectors together.
        spots: n, how many decisions a sample gets.
        hidden: width of a hidden layer with ReLU; 0, as published: linear.
        initial_bias: added to the teacher's logits at the start. 0: undecided, and "the probability of distilling is very low
            at first" (paper). 10 in the authors' code where both nets are of one kind: :math:`P = 0.99995` at the start.

    Paper: Song, Chen, Ye, Song, IEEE TIP 2022, arXiv 2205.02399
    """

    def __init__(self, inputs: int, spots: int, hidden: int = 0, initial_bias: float = 0.0) -> None:
        super().__init__()
        self.spots = spots
        last = nn.Linear(hidden or inputs, 2 * spots)
        self.net = nn.Sequential(nn.Linear(inputs, hidden), nn.ReLU(), last) if hidden else last
        with torch.no_grad():
            last.bias.view(spots, 2)[:, 0] += initial_bias

    def forward(self, v_t: Tensor, v_s: Tensor) -> Tensor:
        """The logits, (B, spots, 2), float32, of vectors (B, ...), which are flattened."""
        with torch.autocast(v_t.device.type, enabled=False):
            v = torch.cat([v_t.detach().float().flatten(1), v_s.detach().float().flatten(1)], 1)
            logits: Tensor = self.net(v).unflatten(1, (self.spots, 2))
        return logits


def probability(logits: Tensor) -> Tensor:
    """The exact probability of the teacher's way, (B, spots), for logits (B, spots, 2).

    It is the probability that :func:`gumbel` gives 1, whatever its temperature.
    """
    return (logits[..., 0] - logits[..., 1]).sigmoid()


def gumbel(logits: Tensor, temperature: float, noise: Tensor | None = None) -> Tensor:
    r"""Decisions in {0, 1} with a gradient: straight-through Gumbel-Softmax. 1: the teacher's way.

    .. math:: a = \mathrm{onehot}(\arg\max(l + g)) + y - \mathrm{sg}(y), \qquad y = \mathrm{softmax}((l + g) / \tau)

    The temperature does not change what is decided, only how much gradient the logits get: :math:`\partial a_0 / \partial l_0
    = y_0 y_1 / \tau`, on average 0.05 at 5, 0.17 at 1, 0.26 at 0.1, where its variance is large.

    Args:
        logits: (B, spots, 2).
        temperature: tau, above 0.
        noise: what is added, of the shape of the logits; None: drawn from the Gumbel distribution.

    Shape: (B, spots, 2) -> (B, spots), exactly 0 or 1.

    Paper: Jang, Gu, Poole, ICLR 2017, arXiv 1611.01144
    """
    if not temperature > 0:
        raise ConfigError(f"the temperature of the decisions must be above 0, got {temperature}")
    if noise is None:
        noise = -torch.empty_like(logits).exponential_().log()  # -log of an exponential variable is a Gumbel variable
    noisy = logits + noise
    y = F.softmax(noisy / temperature, -1)[..., 0]
    return (noisy[..., 0] >= noisy[..., 1]).to(y.dtype) + (y - y.detach())
