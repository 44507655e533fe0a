"""Complementary relation contrastive distillation."""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from potstill.errors import ModelError
from potstill.losses._heads import FrozenHead, Linear, LiveHead
from potstill.losses._logits import labelled
from potstill.losses._maps import map_shape, pooled
from potstill.losses._memory import EPS, Embed, Memory, Negatives
from potstill.losses._relations import inverse_root, unit
from potstill.losses.base import Loss
from potstill.ranges import Count, NonNegative, Positive, Share
from potstill.types import Batch, Shape


class CRCD(Loss):
    r"""Contrast how a sample lies to others, in the features and in the gradients at the features.

    With embeddings and memories as in :class:`CRD`, and the batch's own memory entries as anchors :math:`a_j = M^t_j`, the
    student's relation :math:`r_{bj} = \mathrm{norm}(e^s_b - a_j)` is compared with the remembered ones
    :math:`r_{bjk} = \mathrm{norm}(M^t_{i_{bk}} - a_j)` of the sample itself (k = 0) and of K others:

    .. math:: h_{bjk} = \exp(r_{bj} \cdot r_{bjk} / \tau) / Z, \qquad
              \ell_b = \mathrm{mean}_j \Big[ -\log \frac{h_{bj0}}{h_{bj0} + c} - \sum_{k=1}^{K} \log \frac{c}{h_{bjk} + c} \Big]

    plus the same of :math:`e^t` against :math:`M^s`. The gradient element is the same loss, with embeddings and memories of its
    own, on :math:`g = \partial \mathrm{CE} / \partial v = W^T (\mathrm{softmax}(W v + b) - y)` of each net, or
    :math:`10\,(1 - \cos(g^s, g^t))`.

    Args:
        s_shape, t_shape, num_samples, labels: filled in by probing, as for :class:`CRD`.
        s_head: the student's last linear layer, the live one; not part of this loss's parameters.
        t_head: the teacher's, its classes in the order of the data; kept as a buffer.
        gradient: the gradient element: ``relation`` as in the paper, ``cosine`` (the code's ``mse``; the
            vectors must be of one width), ``none``.
        gradient_weight: of the gradient element; 1.
        dim: width of an embedding; 128 in the authors' code, as all defaults here.
        negatives: K; 500.
        temperature: tau; 0.05.
        momentum: what a row of a memory keeps of its past; 0.5.
        balanced: as for :class:`CRD`.

    Shape: ``s``, ``t``: penultimate vectors (B, d). Reads ``batch.ids`` and, for gradients, ``batch.y``. Result: (B,).

    Differs from the authors' code, which they call incomplete and unchecked: the gradient element is added (there it multiplies
    the KD term), of each sample's cross-entropy (there of the batch's mean), in closed form; the relation of a sample to itself,
    which has no direction, is left out (there 1e-6 is added, which makes it a constant); norms and products are expanded, so
    that B² K numbers are held instead of B² K d (1 GB a side at B = 64). Published with all distillation weights 0 in the
    last 10 of 250 epochs, "critical" to its results.

    Raises:
        ModelError: all samples are of one class; a gradient element without linear classifiers, or ``cosine`` of unlike widths.

    Paper: Zhu et al., CVPR 2021, arXiv 2103.16367
    """

    def __init__(
        self,
        s_shape: Shape,
        t_shape: Shape,
        num_samples: int,
        labels: Tensor | None = None,
        s_head: Linear | None = None,
        t_head: Linear | None = None,
        gradient: Literal["relation", "cosine", "none"] = "relation",
        gradient_weight: NonNegative = 1.0,
        dim: Count = 128,
        negatives: Count = 500,
        temperature: Positive = 0.05,
        momentum: Share = 0.5,
        balanced: bool = False,
    ) -> None:
        super().__init__()
        self.gradient, self.gradient_weight = gradient, gradient_weight
        self.negatives, self.balanced = negatives, balanced
        settings = (num_samples, dim, temperature, momentum)
        self.features = Relations(s_shape, t_shape, *settings)
        self.gradients = Relations(s_shape, t_shape, *settings) if gradient == "relation" else None
        self.others = Negatives(labels, num_samples)
        self.ours, self.theirs = None, None
        if gradient != "none":
            what = "CRCD with gradients (not with gradient=none)"
            self.ours = LiveHead(s_head, map_shape(s_shape)[0], "student", what)
            self.theirs = FrozenHead(t_head, map_shape(t_shape)[0], "teacher", what)
        if gradient == "cosine" and map_shape(s_shape)[0] != map_shape(t_shape)[0]:
            raise ModelError(
                f"gradients of unlike widths, {map_shape(s_shape)[0]} and {map_shape(t_shape)[0]}, have no cosine",
                hint="losses.crcd.gradient=relation",
            )

    def forward(self, s: Tensor, t: Tensor, batch: Batch | None = None, index: Tensor | None = None) -> Tensor:
        """The loss of each sample, (B,).

        Args:
            index: the samples to compare with, (B, 1 + K), the sample itself first; drawn when None.
        """
        if batch is None:
            raise TypeError("CRCD remembers samples by their ids: give it the batch")
        s, t = pooled(s), pooled(t)
        if index is None:
            index = torch.cat([batch.ids[:, None], self.others(batch.ids, self.negatives, self.balanced)], 1)
        loss = self.features(s, t, batch.ids, index)
        if self.ours is None or self.theirs is None:
            return loss
        with torch.autocast(s.device.type, enabled=False):
            g_s = slope(s, self.ours.weight(s), self.ours.bias(s), batch)
            g_t = slope(t, self.theirs.weight, self.theirs.bias, batch)
            if self.gradients is not None:
                return loss + self.gradient_weight * self.gradients(g_s, g_t, batch.ids, index)
            return loss + self.gradient_weight * 10 * (1 - (unit(g_s) * unit(g_t)).sum(1))


def slope(v: Tensor, weight: Tensor, bias: Tensor | None, batch: Batch) -> Tensor:
    """The gradient of each sample's cross-entropy with respect to its vector (B, d), (B, d); 0 where there is no label."""
    y, has = labelled(batch, "CRCD's gradient element")
    p = F.linear(v, weight, bias).softmax(1)
    target = batch.targets if batch.targets is not None else F.one_hot(y, p.shape[1])
    return (p - target) @ weight * has[:, None]


class Relations(nn.Module):
    """The relation contrast of two sides' vectors, with its own embeddings and memories."""

    def __init__(
        self, s_shape: Shape, t_shape: Shape, num_samples: int, dim: int, temperature: float, momentum: float
    ) -> None:
        super().__init__()
        self.embed_s, self.embed_t = Embed(map_shape(s_shape)[:1], dim), Embed(map_shape(t_shape)[:1], dim)
        self.memory = Memory(num_samples, dim, temperature, momentum)

    def forward(self, s: Tensor, t: Tensor, ids: Tensor, index: Tensor) -> Tensor:
        """The contrast of each sample, (B,), of vectors (B, d), with the samples ``index``, (B, 1 + K)."""
        z_s, z_t = self.embed_s(s), self.embed_t(t)
        loss = self.side(z_s, "teacher", ids, index) + self.side(z_t, "student", ids, index)
        self.memory.remember(ids, z_s, z_t)
        return loss

    @torch.compiler.disable
    def side(self, z: Tensor, against: Literal["student", "teacher"], ids: Tensor, index: Tensor) -> Tensor:
        """One side's contrast with the other's memory, (B,).

        (e - a) . (m - a) is expanded to e.m - a.m - e.a + a.a, and the squared norms likewise; axes: sample b, anchor j, other k.
        """
        bank = self.memory.teacher if against == "teacher" else self.memory.student
        with torch.autocast(z.device.type, enabled=False):
            anchors, others = bank[ids], bank[index]  # copies: the bank may be overwritten before the backward
            undefined = index[:, None] == ids[None, :, None]
            aa = anchors.square().sum(1)
            am = torch.einsum("jd,bkd->bjk", anchors, others)
            ea = z @ anchors.mT
            ours = inverse_root(z.square().sum(1, keepdim=True) - 2 * ea + aa, 1e-6)
            theirs = inverse_root(others.square().sum(2)[:, None] - 2 * am + aa[None, :, None], 1e-6)
            products = (z[:, None] @ others.mT) - am - ea[:, :, None] + aa[None, :, None]
            cos = (products * ours[:, :, None] * theirs).masked_fill(undefined, 0.0)
            logits = cos / self.memory.temperature
            log_z = self.memory.log_constant(
                "student" if against == "teacher" else "teacher", logits.detach().flatten()
            )
            k = index.shape[1] - 1
            c = k / len(bank)
            x = logits - log_z - math.log(c + EPS)
            negative = F.softplus(x[..., 1:]).masked_fill(undefined[..., 1:], 0.0).sum(2)
            contrast = F.softplus(-x[..., 0]) + negative + k * math.log1p(EPS / c)
            defined = ~undefined[..., 0]
            return (contrast * defined).sum(1) / defined.sum(1).clamp_min(1)
