"""The losses as the field's reference code computes them, in our words: what `benchmarks/losses.py` compares with.

Each entry of :data:`REFERENCES` takes a loss of the zoo, whose parameters and memories it reads, and the batch, and gives a
function of what student and teacher say, whose result is the mean over the batch. These forms broadcast, gather and loop
over powers of the batch, because the code that the published tables were made with does.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.reference_features import FEATURES
from benchmarks.reference_logits import LOGITS
from potstill.types import Batch

T = TypeVar("T")
Says = Any  # a tensor, or a list of them
Reference = Callable[[Says, Says], Tensor]


def at(loss: Any, batch: Batch) -> Reference:
    """Powers averaged over channels, normalised; the mean squared difference of each stage, added up."""

    def attention(f: Tensor) -> Tensor:
        return F.normalize(f.pow(loss.p).mean(1).flatten(1))

    def run(s: Sequence[Tensor], t: Sequence[Tensor]) -> Tensor:
        return torch.stack([(attention(f) - attention(g)).pow(2).mean() for f, g in zip(s, t, strict=True)]).sum()

    return run


def sp(loss: Any, batch: Batch) -> Reference:
    """Gram matrices of flattened maps, rows normalised, squared difference over B²."""

    def run(s: Tensor, t: Tensor) -> Tensor:
        f, g = s.flatten(1), t.flatten(1)
        a, b = F.normalize(torch.mm(f, f.t())), F.normalize(torch.mm(g, g.t()))
        return (b - a).pow(2).sum() / len(s) ** 2

    return run


def pkt(loss: Any, batch: Batch) -> Reference:
    """Cosines between all samples as probabilities, compared by a logarithm of their ratio."""
    eps = 1e-7

    def neighbours(x: Tensor) -> Tensor:
        x = x / (x.pow(2).sum(1, keepdim=True).sqrt() + eps)
        k = (torch.mm(x, x.t()) + 1) / 2
        return k / k.sum(1, keepdim=True)

    def run(s: Tensor, t: Tensor) -> Tensor:
        p, q = neighbours(s), neighbours(t)
        return (q * torch.log((q + eps) / (p + eps))).mean()

    return run


def rkd(loss: Any, batch: Batch) -> Reference:
    """Distances by expanded squares; angles from the B x B x D tensor of all differences."""

    def distances(x: Tensor) -> Tensor:
        square = x.pow(2).sum(1)
        d = (square[:, None] + square[None] - 2 * torch.mm(x, x.t())).clamp(min=1e-12).sqrt()
        d = d * (1 - torch.eye(len(x)))
        return d / d[d > 0].mean()

    def angles(x: Tensor) -> Tensor:
        difference = F.normalize(x[None] - x[:, None], dim=2)
        return torch.bmm(difference, difference.transpose(1, 2)).flatten()

    def run(s: Tensor, t: Tensor) -> Tensor:
        with torch.no_grad():
            d, a = distances(t), angles(t)
        return loss.distance_weight * F.smooth_l1_loss(distances(s), d) + loss.angle_weight * F.smooth_l1_loss(
            angles(s), a
        )

    return run


def ab(loss: Any, batch: Batch) -> Reference:
    """Two masked squares for every element of every map; later stages count twice as much as those before."""

    def boundary(s: Tensor, t: Tensor) -> Tensor:
        m = loss.margin
        silent, fires = (s > -m) & (t <= 0), (s <= m) & (t > 0)
        return ((s + m).pow(2) * silent.float() + (s - m).pow(2) * fires.float()).sum() / len(s)

    def run(s: Sequence[Tensor], t: Sequence[Tensor]) -> Tensor:
        mapped = [connector(f) for connector, f in zip(loss.connectors, s, strict=True)]
        stages = [boundary(f, g) / 2 ** (len(s) - i - 1) for i, (f, g) in enumerate(zip(mapped, t, strict=True))]
        return torch.stack(stages).sum() / 1000 * 3

    return run


def ft(loss: Any, batch: Batch) -> Reference:
    """The paraphraser runs under autograd, and its gradients are computed for nobody."""
    paraphraser = copy.deepcopy(loss.paraphraser).requires_grad_()

    def factor(f: Tensor) -> Tensor:
        return F.normalize(f.pow(2).mean(1).flatten(1))

    def run(s: Tensor, t: Tensor) -> Tensor:
        return (factor(loss.translator(s)) - factor(paraphraser.encoder(t))).abs().mean()

    return run


def nst(loss: Any, batch: Batch) -> Reference:
    """The kernel of every pair of channels through a product of shape B x c x C x HW."""

    def kernel(a: Tensor, b: Tensor) -> Tensor:
        return (a[:, None] * b[:, :, None]).sum(-1).pow(2)

    def mmd(f: Tensor, g: Tensor) -> Tensor:
        s, t = F.normalize(f.flatten(2), dim=2), F.normalize(g.flatten(2), dim=2)
        return kernel(t, t).mean() + kernel(s, s).mean() - 2 * kernel(s, t).mean()

    def run(s: Sequence[Tensor], t: Sequence[Tensor]) -> Tensor:
        return torch.stack([mmd(f, g) for f, g in zip(s, t, strict=True)]).sum()

    return run


def fsp(loss: Any, batch: Batch) -> Reference:
    """The flow matrix through a product of shape B x c x c' x HW."""

    def flow(maps: Sequence[Tensor]) -> list[Tensor]:
        matrices = []
        for f, g in pairwise(maps):
            size = min(f.shape[2], g.shape[2])
            low, high = (F.adaptive_avg_pool2d(h, size).flatten(2) for h in (f, g))
            matrices.append((low[:, :, None] * high[:, None]).mean(-1))
        return matrices

    def run(s: Sequence[Tensor], t: Sequence[Tensor]) -> Tensor:
        return torch.stack([(a - b).pow(2).mean() for a, b in zip(flow(s), flow(t), strict=True)]).sum()

    return run


def crd(loss: Any, batch: Batch) -> Reference:
    """B x (K + 1) rows are gathered from each memory and scored in probabilities; the memories are then written.

    The negatives are given, as the data loader of the reference draws them: their cost is not counted here.
    """
    banks = {"student": loss.memory.student.clone(), "teacher": loss.memory.teacher.clone()}
    z: dict[str, Tensor] = {}
    index = given_index("crd", loss, batch)["index"]
    n, K, eps, T, keep = len(banks["student"]), index.shape[1] - 1, 1e-7, loss.memory.temperature, loss.memory.momentum

    def embedding(layer: Any, v: Tensor) -> Tensor:
        x = layer.map(v)
        return x / x.pow(2).sum(1, keepdim=True).sqrt()

    def contrast(side: str, e: Tensor, bank: Tensor) -> Tensor:
        rows = torch.index_select(bank, 0, index.flatten()).view(*index.shape, -1)
        score = torch.exp(torch.bmm(rows, e[:, :, None])[:, :, 0] / T)
        if side not in z:
            z[side] = score.detach().mean() * n
        h, noise = score / z[side], K / n
        positive = torch.log(h[:, 0] / (h[:, 0] + noise + eps))
        negative = torch.log(noise / (h[:, 1:] + noise + eps))
        return -(positive.sum() + negative.sum()) / len(e)

    def run(s: Tensor, t: Tensor) -> Tensor:
        e_s, e_t = embedding(loss.embed_s, s), embedding(loss.embed_t, t)
        value = contrast("student", e_s, banks["teacher"]) + contrast("teacher", e_t, banks["student"])
        with torch.no_grad():
            for side, e in (("student", e_s), ("teacher", e_t)):
                mixed = keep * banks[side][batch.ids] + (1 - keep) * e
                banks[side][batch.ids] = mixed / mixed.pow(2).sum(1, keepdim=True).sqrt()
        return value

    return run


def crcd(loss: Any, batch: Batch) -> Reference:
    """Every relation between a remembered sample and an anchor is a row of a B x B x (K + 1) x d tensor, made and normalised;
    gradients at the features come from autograd. Relations without direction are left out, as in the zoo, to be comparable.
    """
    index = given_index("crcd", loss, batch)["index"]
    undefined = index[:, None] == batch.ids[None, :, None]
    parts = [loss.features, loss.gradients]
    banks = [{"student": p.memory.student.clone(), "teacher": p.memory.teacher.clone()} for p in parts]
    z: dict[tuple[int, str], Tensor] = {}
    n, eps, T, keep = len(banks[0]["student"]), 1e-7, parts[0].memory.temperature, parts[0].memory.momentum
    noise = (index.shape[1] - 1) / n

    def contrast(key: tuple[int, str], e: Tensor, bank: Tensor) -> Tensor:
        anchors, others = bank[batch.ids], bank[index]
        ours = F.normalize(e[:, None] - anchors, dim=2)
        theirs = F.normalize(others[:, None] - anchors[:, None], dim=3)
        score = torch.exp(torch.matmul(theirs, ours[..., None])[..., 0].masked_fill(undefined, 0.0) / T)
        if key not in z:
            z[key] = score.detach().mean() * n
        h = score / z[key]
        terms = torch.log(noise / (h + noise + eps))
        terms = torch.cat([torch.log(h[..., :1] / (h[..., :1] + noise + eps)), terms[..., 1:]], 2)
        idle = math.log(noise / (noise + eps))  # what a relation without direction leaves of its term
        per_anchor = -torch.where(undefined, idle, terms).sum(2) * ~undefined[..., 0]
        return (per_anchor.sum(1) / (~undefined[..., 0]).sum(1)).mean()

    def slope(v: Tensor, head: Any, graph: bool) -> Tensor:
        with torch.enable_grad():
            v = v if v.requires_grad else v.detach().requires_grad_()
            value = F.cross_entropy(F.linear(v, head.weight, head.bias), batch.y, reduction="sum")
            (gradient,) = torch.autograd.grad(value, v, create_graph=graph)
        return gradient

    def run(s: Tensor, t: Tensor) -> Tensor:
        total = s.new_zeros(())
        pairs = [(s, t), (slope(s, loss.ours.head, True), slope(t, loss.theirs, False))]
        for i, (part, bank, (a, b)) in enumerate(zip(parts, banks, pairs, strict=True)):
            e_s, e_t = F.normalize(part.embed_s.map(a)), F.normalize(part.embed_t.map(b))
            total = (
                total + contrast((i, "student"), e_s, bank["teacher"]) + contrast((i, "teacher"), e_t, bank["student"])
            )
            with torch.no_grad():
                for side, e in (("student", e_s), ("teacher", e_t)):
                    bank[side][batch.ids] = F.normalize(keep * bank[side][batch.ids] + (1 - keep) * e)
        return total

    return run


def kdsvd(loss: Any, batch: Batch) -> Reference:
    """Singular value decompositions of both sides' maps, the student's under autograd."""
    k = loss.k

    def aligned(f: Tensor, g: Tensor) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            _, sigma, theirs = torch.linalg.svd(g.flatten(2).mT, full_matrices=False)
        ours = torch.linalg.svd(f.flatten(2).mT, full_matrices=False)[2]
        a, b = ours[:, : k + 3].mT, theirs[:, :k].mT
        cos = a.detach().mT @ b
        nearest = cos.abs().argmax(1, keepdim=True)
        a = a.gather(2, nearest.expand(-1, a.shape[1], -1)) * cos.gather(1, nearest).sign()
        weight = F.normalize(sigma[:, :k])[:, None]
        return a * weight, b * weight

    def kernel(v: Tensor, before: Tensor) -> Tensor:
        return torch.exp(-(v[:, :, None] - before[:, None]).pow(2) / 8)

    def run(s: Sequence[Tensor], t: Sequence[Tensor]) -> Tensor:
        both = [aligned(f, g) for f, g in zip(s, t, strict=True)]
        terms = [(kernel(a, x) - kernel(b, y)).pow(2).sum() / len(a) for (x, y), (a, b) in pairwise(both)]
        return torch.stack(terms).sum()

    return run


def drawn(what: Callable[[], T]) -> T:
    """Random numbers from one seed, the generator left as it was."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return what()


def given_index(name: str, loss: Any, batch: Batch) -> dict[str, Tensor]:
    """The samples that a contrastive reference compares with, as an argument of the zoo's loss; else nothing."""
    if name == "crd":
        return {"index": drawn(lambda: loss.draw(batch.ids))}
    if name == "crcd":
        return {
            "index": drawn(lambda: torch.cat([batch.ids[:, None], loss.others(batch.ids, loss.negatives, False)], 1))
        }
    return {}


REFERENCES: dict[str, Callable[[Any, Batch], Reference]] = {
    **LOGITS,
    **FEATURES,
    **{f.__name__: f for f in (at, sp, pkt, rkd, ab, ft, nst, fsp, kdsvd, crd, crcd)},
}
