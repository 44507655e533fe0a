"""The logit losses as their authors compute them, in our words: a part of :mod:`benchmarks.reference_losses`."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from potstill.types import Batch

Reference = Callable[[Any, Any], Tensor]


def kd(loss: Any, batch: Batch) -> Reference:
    """KL divergence of softened probabilities, summed, over the batch size."""
    T = loss.temperature
    return lambda s, t: softened(s, t, T)


def softened(s: Tensor, t: Tensor, T: Any) -> Tensor:
    """KD at temperature T."""
    return F.kl_div(F.log_softmax(s / T, 1), F.softmax(t / T, 1), reduction="sum") * T**2 / len(s)


def ce(loss: Any, batch: Batch) -> Reference:
    """Cross-entropy, reduced by torch."""
    return lambda s, t: F.cross_entropy(s, batch.y)


def soft_ce(loss: Any, batch: Batch) -> Reference:
    """The sum over classes as the document writes it."""
    T = loss.temperature
    return lambda s, t: -(F.softmax(t / T, 1) * F.log_softmax(s / T, 1)).sum(1).mean()


def dkd(loss: Any, batch: Batch) -> Reference:
    """Masks of the label; the two-class part by sums of probabilities, the others with the label's logit lowered by 1000."""
    T = loss.temperature

    def coin(p: Tensor, label: Tensor) -> Tensor:
        return torch.cat([(p * label).sum(1, keepdim=True), (p * ~label).sum(1, keepdim=True)], 1)

    def run(s: Tensor, t: Tensor) -> Tensor:
        label = torch.zeros_like(s).scatter_(1, batch.y[:, None], 1).bool()
        p, q = coin(F.softmax(s / T, 1), label), coin(F.softmax(t / T, 1), label)
        target = F.kl_div(p.log(), q, reduction="sum") * T**2 / len(s)
        log_p, q = F.log_softmax(s / T - 1000.0 * label, 1), F.softmax(t / T - 1000.0 * label, 1)
        others = F.kl_div(log_p, q, reduction="sum") * T**2 / len(s)
        return loss.alpha * target + loss.beta * others

    return run


def nkd(loss: Any, batch: Batch) -> Reference:
    """The others are picked by a boolean mask."""
    T = loss.temperature

    def run(s: Tensor, t: Tensor) -> Tensor:
        B, C = s.shape
        y = batch.y[:, None]
        target = -(F.softmax(t, 1).gather(1, y) * F.log_softmax(s, 1).gather(1, y)).mean()
        others = torch.ones_like(s).scatter_(1, y, 0).bool()
        a, b = s[others].reshape(B, C - 1), t[others].reshape(B, C - 1)
        soft = -(F.softmax(b / T, 1) * F.log_softmax(a / T, 1)).sum(1).mean()
        return target + loss.gamma * T**2 * soft

    return run


def wsld(loss: Any, batch: Batch) -> Reference:
    """Cross-entropies of both by a log-softmax and the one-hot label."""
    T = loss.temperature

    def run(s: Tensor, t: Tensor) -> Tensor:
        soft = -(F.softmax(t / T, 1) * F.log_softmax(s / T, 1)).sum(1, keepdim=True)
        one_hot = torch.zeros_like(s).scatter_(1, batch.y[:, None], 1)
        ours, theirs = (-(one_hot * F.log_softmax(z.detach(), 1)).sum(1, keepdim=True) for z in (s, t))
        weight = 1 - torch.exp(-ours / (theirs + 1e-7))
        return (T**2 * weight * soft).mean()

    return run


def dist(loss: Any, batch: Batch) -> Reference:
    """Pearson's correlation of rows, of the matrices and of their transposes."""
    T = loss.temperature

    def pearson(x: Tensor, y: Tensor) -> Tensor:
        x, y = x - x.mean(1, keepdim=True), y - y.mean(1, keepdim=True)
        return (x * y).sum(1) / (x.norm(dim=1) * y.norm(dim=1) + 1e-8)

    def run(s: Tensor, t: Tensor) -> Tensor:
        p, q = F.softmax(s / T, 1), F.softmax(t / T, 1)
        inter, intra = 1 - pearson(p, q).mean(), 1 - pearson(p.t(), q.t()).mean()
        return T**2 * (loss.beta * inter + loss.gamma * intra)

    return run


def mlkd(loss: Any, batch: Batch) -> Reference:
    """One temperature after the other; the limits by numpy. The masks choose samples and classes, as in the zoo."""

    def run(s: Tensor, t: Tensor) -> Tensor:
        B, C = s.shape
        sure = F.softmax(t, 1)
        confidence, summed = sure.max(1).values, sure.sum(0)
        hard, rare = (
            x.le(float(np.percentile(x.cpu().numpy(), 100 * loss.hardest))).float() for x in (confidence, summed)
        )
        total = s.new_zeros(())
        for T in loss.temperatures:
            p, q = F.softmax(s / T, 1), F.softmax(t / T, 1)
            kl = F.kl_div(F.log_softmax(s / T, 1), q, reduction="none").sum(1) * T**2
            samples = (torch.mm(q, q.t()) - torch.mm(p, p.t())).pow(2).sum(1)
            classes = (torch.mm(q.t(), q) - torch.mm(p.t(), p)).pow(2).sum(1)
            total = total + (kl * hard).mean() + (samples * hard).sum() / B + (classes * rare).sum() / C
        return total

    return run


def spherical_kd(loss: Any, batch: Batch) -> Reference:
    """The student's logits brought to the teacher's standard deviation."""
    return lambda s, t: softened(s / s.std(1, keepdim=True) * t.std(1, keepdim=True), t, loss.temperature)


def norm_kd(loss: Any, batch: Batch) -> Reference:
    """A temperature for each sample and side."""

    def run(s: Tensor, t: Tensor) -> Tensor:
        T_s, T_t = (loss.temperature * z.std(1, keepdim=True) for z in (s, t))
        kl = F.kl_div(F.log_softmax(s / T_s, 1), F.softmax(t / T_t, 1), reduction="none").sum(1, keepdim=True)
        return (kl * T_t.pow(2)).mean()

    return run


def ttm(loss: Any, batch: Batch) -> Reference:
    """The power of probabilities, brought to sum 1 again."""

    def run(s: Tensor, t: Tensor) -> Tensor:
        powers = F.softmax(t, 1).pow(loss.gamma)
        return F.kl_div(F.log_softmax(s, 1), powers / powers.sum(1, keepdim=True), reduction="batchmean")

    return run


def wttm(loss: Any, batch: Batch) -> Reference:
    """The same, each sample times the sum that it was divided by."""

    def run(s: Tensor, t: Tensor) -> Tensor:
        powers = F.softmax(t, 1).pow(loss.gamma)
        U = powers.sum(1, keepdim=True)
        kl = F.kl_div(F.log_softmax(s, 1), powers / U, reduction="none").sum(1, keepdim=True)
        return (kl * U).mean()

    return run


class Reversed(torch.autograd.Function):
    """The same forward, the gradient times ``-strength`` backward."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, strength: float) -> Tensor:
        ctx.strength = strength
        return x.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return -ctx.strength * gradient, None


def ctkd(loss: Any, batch: Batch) -> Reference:
    """A layer that reverses gradients in front of the temperature."""
    strength = (1 - math.cos(math.pi * min(batch.progress / loss.ramp, 1.0))) / 2
    return lambda s, t: softened(
        s, t, loss.low + loss.span * torch.sigmoid(Reversed.apply(loss.theta, strength))
    ).squeeze()


LOGITS = {f.__name__: f for f in (kd, ce, soft_ce, dkd, nkd, wsld, dist, mlkd, spherical_kd, norm_kd, ttm, wttm, ctkd)}
