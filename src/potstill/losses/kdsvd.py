"""Distillation of singular vectors."""

from __future__ import annotations

from itertools import pairwise
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from potstill.errors import ModelError
from potstill.losses._maps import Features, Shapes, as_list, as_many, shape_pairs
from potstill.losses.base import Loss
from potstill.ranges import Count
from potstill.types import Batch, Kept


class KDSVD(Loss):
    r"""Compress each map to its first right singular vectors, and match how these change from stage to stage.

    A map is the matrix :math:`X = U \Sigma V^T \in R^{HW \times C}`. Of the student's first k + 3 vectors the one nearest to each
    of the teacher's first k (by \|cos\|, with its sign) is taken, and both are scaled by the teacher's unit-length
    :math:`(\sigma_1 .. \sigma_k)`. With :math:`K_i[p, q, j] = \exp(-(v_{i,p,j} - v_{i-1,q,j})^2 / 8)` of consecutive stages,

    .. math:: \ell_b = \sum_{i \ge 2} \| K^s_{b,i} - K^t_{b,i} \|^2

    Args:
        s_shape, t_shape: filled in by probing: lists, of two or more spots.
        k: vectors of the teacher; 1 in the code of RepDistiller and mdistiller. At 1 the singular values have no effect.
        signs: the sign of a singular vector is arbitrary, yet K depends on it. ``solver`` (as published): whatever the solver
            gives, the same on one machine. ``positive``: the sum of the teacher's vector is made positive, which is the same on
            all machines, and faster; for k = 1 behind a ReLU the two agree.

    Shape: ``s``, ``t``: lists of as many maps (B, C, H, W) or tokens, of equal channels; resolutions may differ. Result: (B,).

    Differs from RepDistiller, whose values these are: the student's vectors are eigenvectors of the smaller Gram matrix with a
    bounded backward, because that of the SVD divides by differences of singular values and gives NaN where two are equal
    (between those the gradient is 0 here, they have no direction of their own); maps need not be square.

    Raises:
        ModelError: the channels differ, or there are not two maps or more, or one has fewer than k vectors.

    Paper: Lee, Kim, Song, ECCV 2018, arXiv 1807.06819
    """

    reduce_by = ("k", "signs")

    def __init__(
        self, s_shape: Shapes, t_shape: Shapes, k: Count = 1, signs: Literal["solver", "positive"] = "solver"
    ) -> None:
        super().__init__()
        pairs = shape_pairs(s_shape, t_shape, "KDSVD")
        s_channels, t_channels = [s[0] for s, _ in pairs], [t[0] for _, t in pairs]
        if len(pairs) < 2:
            raise ModelError("KDSVD compares consecutive stages: it needs two spots or more", hint="at=stages")
        if s_channels != t_channels:
            raise ModelError(
                f"KDSVD needs as many channels in the student's maps as in the teacher's, got {s_channels} and {t_channels}",
                hint="use nst or at, which compare maps of any channels, or vid, which learns an adapter",
            )
        fewest = min(min(t[0], t[1] * t[2]) for _, t in pairs)
        if k > fewest:
            raise ModelError(
                f"KDSVD is to compare k={k} vectors, but a map of the teacher has {fewest}", hint="losses.kdsvd.k=1"
            )
        self.k, self.signs = k, signs
        if k == 1:  # signs and order of more vectors may change with the batch
            self.packs = "directions"

    def forward(self, s: Features, t: Features, batch: Batch | None = None) -> Tensor:
        ss, kept = as_list(s), self.reduce(t)
        theirs, scales = kept[0::2], kept[1::2]
        as_many(ss, theirs, "KDSVD")
        with torch.autocast(ss[0].device.type, enabled=False):
            both = [
                (self.nearest(f, v) * scale[:, None], v * scale[:, None])
                for f, v, scale in zip(ss, theirs, scales, strict=True)
            ]
            losses = [
                (kernel(v_s, u_s) - kernel(v_t, u_t)).square().sum((1, 2, 3))
                for (u_s, u_t), (v_s, v_t) in pairwise(both)
            ]
        return torch.stack(losses).sum(0)

    @torch.no_grad()
    def reduce(self, t: Features) -> Kept:
        """Of each of the teacher's maps the vectors, (B, C, k), and their unit-length singular values, (B, k)."""
        if isinstance(t, Kept):
            return t
        kept = Kept()
        for g in as_list(t):
            with torch.autocast(g.device.type, enabled=False):
                x = g.flatten(2).mT
                if self.signs == "solver":
                    _, sigma, vh = torch.linalg.svd(x, full_matrices=False)
                    v, sigma = vh[:, : self.k].mT, sigma[:, : self.k]
                else:
                    v = first_right(x, self.k)
                    v = v * torch.where(v.sum(1, keepdim=True) < 0, -1.0, 1.0)
                    sigma = (x @ v).square().sum(1).sqrt()
                kept += [v, F.normalize(sigma, dim=1)]
        return kept

    def nearest(self, f: Tensor, v: Tensor) -> Tensor:
        """Of the student's first vectors those nearest to the teacher's, with their signs, (B, C, k)."""
        ours = first_right(f.flatten(2).mT, self.k + 3)
        cos = ours.detach().mT @ v
        nearest = cos.abs().argmax(1, keepdim=True)
        sign = cos.gather(1, nearest).sign()
        return ours.gather(2, nearest.expand(-1, ours.shape[1], -1)) * sign


def kernel(v: Tensor, before: Tensor) -> Tensor:
    """The Gaussian kernel of all pairs of entries of two stages' vectors, (B, C_i, C_{i-1}, k)."""
    return torch.exp((v[:, :, None] - before[:, None]).square() / -8)


def first_right(x: Tensor, k: int) -> Tensor:
    """The first ``k`` right singular vectors of matrices (B, n, m), (B, m, k), signs arbitrary; fewer where there are fewer."""
    n, m = x.shape[1:]
    k = min(k, n, m)
    if n >= m:
        return first_eigenvectors(x.mT @ x, k)
    v = x.mT @ first_eigenvectors(x @ x.mT, k)
    square = v.square().sum(1, keepdim=True)
    floor = 1e-6 * square.detach().amax(2, keepdim=True) + 1e-12  # directions that the matrix hardly has stay short
    return v * torch.maximum(square, floor).rsqrt()


class _FirstEigenvectors(torch.autograd.Function):
    """Eigenvectors of the largest eigenvalues, with 1 / (a - b) in the backward replaced by (a - b) / ((a - b)² + e²)."""

    @staticmethod
    def forward(ctx: Any, gram: Tensor, k: int) -> Tensor:
        values, vectors = torch.linalg.eigh(gram)
        ctx.save_for_backward(values, vectors)
        return vectors[..., -k:].flip(-1)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        values, vectors = ctx.saved_tensors
        k = gradient.shape[-1]
        first = vectors[..., -k:].flip(-1)
        gap = values[..., -k:].flip(-1)[..., None, :] - values[..., :, None]
        bound = 1e-5 * values[..., -1:, None] + 1e-12
        inner = (vectors.mT @ gradient) * (gap / (gap.square() + bound.square()))
        outer = vectors @ inner @ first.mT
        return (outer + outer.mT) / 2, None


def first_eigenvectors(gram: Tensor, k: int) -> Tensor:
    """Eigenvectors of the ``k`` largest eigenvalues of symmetric (B, n, n), (B, n, k), largest first."""
    vectors: Tensor = _FirstEigenvectors.apply(gram, k)
    return vectors
