"""Losses on maps and vectors that learn adapters, as their authors compute them, in our words: a part of
:mod:`benchmarks.reference_losses`. The adapters are the zoo's own; what is compared is what is done with them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import product
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from potstill.types import Batch

Reference = Callable[[Any, Any], Tensor]


def fitnet(loss: Any, batch: Batch) -> Reference:
    """Mean squared error behind the regressor."""
    return lambda s, t: F.mse_loss(loss.regressor(s), t)


def simkd(loss: Any, batch: Batch) -> Reference:
    """Mean squared error behind the projector."""
    return lambda s, t: F.mse_loss(loss.projector(s), t)


def srrl(loss: Any, batch: Batch) -> Reference:
    """Two mean squared errors: of features, and of what the teacher's classifier makes of them."""

    def run(s: Tensor, t: Tensor) -> Tensor:
        ours = loss.connector(s[:, :, None, None]).flatten(1)
        said, taught = (F.linear(v, loss.head.weight, loss.head.bias) for v in (ours, t))
        return F.mse_loss(ours, t) + loss.classification * F.mse_loss(said, taught)

    return run


def pad(loss: Any, batch: Batch) -> Reference:
    """The squared difference over the variance, plus its logarithm."""

    def run(s: Tensor, t: Tensor) -> Tensor:
        v = loss.log_variance(s)
        return ((loss.regressor(s) - t).pow(2) / (v.exp() + 1e-6) + v).mean()

    return run


def cc(loss: Any, batch: Batch) -> Reference:
    """Products of neighbours' differences."""

    def run(s: Tensor, t: Tensor) -> Tensor:
        delta = torch.abs(loss.embed_s(s) - loss.embed_t(t))
        return (delta[:-1] * delta[1:]).sum(1).mean()

    return run


def vid(loss: Any, batch: Batch) -> Reference:
    """The variance by the logarithm of an exponential, broadcast over the map; the mean of the log-density's terms."""

    def run(s: Sequence[Tensor], t: Sequence[Tensor]) -> Tensor:
        terms = []
        for f, g, mean, scale in zip(s, t, loss.mean, loss.scale, strict=True):
            variance = (torch.log(1 + torch.exp(scale)) + 1e-5).view(1, -1, 1, 1)
            terms.append((0.5 * ((mean(f) - g).pow(2) / variance + torch.log(variance))).mean())
        return torch.stack(terms).sum()

    return run


def ofd(loss: Any, batch: Batch) -> Reference:
    """All squared differences, masked afterwards; the margins are given."""

    def partial(s: Tensor, t: Tensor, margin: Tensor) -> Tensor:
        t = torch.max(t, margin.view(1, -1, 1, 1))
        return (F.mse_loss(s, t, reduction="none") * ((s > t) | (t > 0)).float()).sum()

    def run(s: Sequence[Tensor], t: Sequence[Tensor]) -> Tensor:
        n = len(s)
        parts = [
            partial(connector(f), g, margin.value) / 2 ** (n - i - 1) / len(f) / 1000
            for i, (f, g, connector, margin) in enumerate(zip(s, t, loss.connectors, loss.margins, strict=True))
        ]
        return torch.stack(parts).sum()

    return run


def reviewkd(loss: Any, batch: Batch) -> Reference:
    """Both maps are pooled at every level; the fusion is the zoo's."""

    def hcl(f: Tensor, g: Tensor) -> Tensor:
        value, weight, weights = F.mse_loss(f, g), 1.0, 1.0
        for level in (4, 2, 1):
            if level >= f.shape[2]:
                continue
            weight /= 2.0
            f, g = F.adaptive_avg_pool2d(f, level), F.adaptive_avg_pool2d(g, level)
            value, weights = value + weight * F.mse_loss(f, g), weights + weight
        return value / weights

    def run(s: Sequence[Tensor], t: Sequence[Tensor]) -> Tensor:
        below, total = None, s[0].new_zeros(())
        for fusion, f, g in zip(list(loss.fusions)[::-1], s[::-1], t[::-1], strict=True):
            f, g = (x[:, :, None, None] if x.ndim == 2 else x for x in (f, g))
            out, below = fusion(f, below)
            total = total + hcl(out, g)
        return total

    return run


def afd(loss: Any, batch: Batch) -> Reference:
    """Keys of all student maps for each teacher map, weights by batched products, then one teacher map after the other."""

    def run(s: Sequence[Tensor], t: Sequence[Tensor]) -> Tensor:
        keys = torch.stack(
            [layer(F.adaptive_avg_pool2d(f, 1).flatten(1)) for layer, f in zip(loss.keys, s, strict=True)], 1
        )
        queries = torch.stack(
            [layer(F.adaptive_avg_pool2d(g, 1).flatten(1)) for layer, g in zip(loss.queries, t, strict=True)], 1
        )
        B, S, d = keys.shape
        bilinear = loss.bilinear(keys.reshape(-1, d)).view(B, S, -1, d)
        match = torch.einsum("bstd,btd->bts", bilinear, queries)
        weight = F.softmax((match + torch.matmul(loss.places_t, loss.places_s.t())) / math.sqrt(d), 2)
        total = s[0].new_zeros(())
        for i, g in enumerate(t):
            size = (g.shape[2], g.shape[3])
            powers = [F.adaptive_avg_pool2d(f.pow(2).mean(1, keepdim=True), size).flatten(1) for f in s]
            ours = F.normalize(torch.stack(powers, 1), dim=2)
            theirs = F.normalize(g.pow(2).mean(1).flatten(1), dim=1)
            total = total + ((ours - theirs[:, None]).pow(2).mean(2) * weight[:, i]).sum(1).mean()
        return total

    return run


def semckd(loss: Any, batch: Batch) -> Reference:
    """One pair of maps after the other. The weights are the zoo's: the authors' belong to places in the batch."""

    def run(s: Sequence[Tensor], t: Sequence[Tensor]) -> Tensor:
        query, key = (
            [F.normalize(layer(x.mean((2, 3)))) for layer, x in zip(layers, maps, strict=True)]
            for layers, maps in ((loss.queries, s), (loss.keys, t))
        )
        scores = torch.stack([torch.stack([(q * k).sum(1) for k in key], 1) for q in query], 1)
        weight = F.softmax(scores / loss.softness, 2)
        total = s[0].new_zeros(())
        for n, (i, j) in enumerate(product(range(len(s)), range(len(t)))):
            size = min(s[i].shape[2], t[j].shape[2])
            f, g = (F.adaptive_avg_pool2d(x, size) for x in (s[i], t[j]))
            apart = F.mse_loss(loss.projectors[n](f), g, reduction="none").reshape(len(f), -1).mean(1)
            total = total + (weight[:, i, j] * apart).mean()
        return total / len(s)

    return run


def cat_kd(loss: Any, batch: Batch) -> Reference:
    """The classifier as a convolution over the whole map, pooled afterwards."""

    def run(s: Tensor, t: Tensor) -> Tensor:
        ours, theirs = (
            F.adaptive_avg_pool2d(F.conv2d(f, weight[:, :, None, None]), loss.resolution)
            for f, weight in ((s, loss.ours.head.weight), (t, loss.theirs.weight))
        )
        return F.mse_loss(ours, theirs)

    return run


def itrd(loss: Any, batch: Batch) -> Reference:
    """Features divided by their standard deviations; Gram matrices of normalised vectors divided by their traces."""

    def run(s: Tensor, t: Tensor) -> Tensor:
        a = loss.embed(s)
        x, y = ((v - v.mean(0)) / v.std(0) for v in (a, t))
        c = torch.einsum("bd,bd->d", x, y) / len(x)
        correlation = torch.log2((c - 1).abs().pow(2 * loss.alpha).sum())
        x, y = F.normalize(s), F.normalize(t)
        g_s, g_t = x @ x.t(), y @ y.t()
        joint = g_s * g_t
        g_s, joint = g_s / torch.trace(g_s), joint / torch.trace(joint)
        return loss.correlation_weight * correlation + loss.mutual_weight * (g_s.pow(2).sum() - joint.pow(2).sum())

    return run


def ickd(loss: Any, batch: Batch) -> Reference:
    """The channels' Gram matrices, rows normalised."""

    def gram(f: Tensor) -> Tensor:
        f = f.flatten(2)
        return F.normalize(torch.bmm(f, f.transpose(1, 2)), dim=2)

    def run(s: Tensor, t: Tensor) -> Tensor:
        return (gram(loss.embed(s)) - gram(t)).pow(2).sum() / (len(s) * t.shape[1])

    return run


def mgd(loss: Any, batch: Batch) -> Reference:
    """A mask by comparison of random numbers; the summed squared error over the batch size."""

    def run(s: Tensor, t: Tensor) -> Tensor:
        random = torch.rand(len(s), s.shape[1], 1, 1)
        mask = torch.where(random < loss.masked, 0.0, 1.0)
        return F.mse_loss(loss.generate(loss.align(s) * mask), t, reduction="sum") / len(s)

    return run


def cwd(loss: Any, batch: Batch) -> Reference:
    """Channels as rows; a softmax and two log-softmaxes."""
    T = loss.temperature

    def run(s: Tensor, t: Tensor) -> Tensor:
        B, C = s.shape[:2]
        a, b = (x.reshape(B * C, -1) / T for x in (loss.align(s), t))
        p = F.softmax(b, 1)
        return (p * F.log_softmax(b, 1) - p * F.log_softmax(a, 1)).sum() * T**2 / (B * C)

    return run


FEATURES = {
    f.__name__: f
    for f in (
        *(fitnet, simkd, srrl, pad, cc, vid, ofd, reviewkd),
        *(afd, semckd, cat_kd, itrd, ickd, mgd, cwd),
    )
}
