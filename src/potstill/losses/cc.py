"""Correlation congruence."""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from potstill.losses._relations import inner, unit, vectors
from potstill.losses.base import Loss
from potstill.ranges import Count, Positive
from potstill.types import Batch, Shape


class CC(Loss):
    r"""Match the correlation between samples, in embeddings e of both nets that are learned beside the student.

    ``neighbour``, the form of the published tables, with :math:`\delta_b = |e^s_b - e^t_b|`:

    .. math:: L = \frac{1}{B-1} \sum_{b=1}^{B-1} \delta_b \cdot \delta_{b+1}

    ``kernel``, the paper's, with a Gaussian kernel by its Taylor series up to order P, on embeddings of length 1:

    .. math:: \ell_b = \frac1B \sum_{b'} (K^s_{bb'} - K^t_{bb'})^2, \quad
              K_{bb'} = e^{-2\gamma} \sum_{p=0}^{P} \frac{(2\gamma)^p}{p!} (e_b \cdot e_{b'})^p

    Args:
        s_shape, t_shape: shapes of the two features without the batch (filled in by probing).
        form: ``neighbour`` is the authors' code as RepDistiller has it and its tables use; ``kernel`` is what the paper says.
        dim: of the embeddings; 128 in RepDistiller.
        gamma: of the kernel; 0.4 in torchdistill.
        order: P of the kernel; 2 in the paper and in torchdistill.

    Shape: ``s``: (B, *s_shape), ``t``: (B, *t_shape), flattened. Result: (B,); half of a pair's product belongs to each of its
    two samples. Of a single sample it is 0 (``neighbour``).

    Raises:
        ModelError: the batches differ in size.

    Both embeddings are trained, and nothing keeps them from shrinking to a point: at weight 0.02 the other losses do.
    ``neighbour`` depends on the order of the samples. The paper's class-balanced sampling is not part of the loss.

    Paper: Peng et al., ICCV 2019, arXiv 1904.01802
    """

    def __init__(
        self,
        s_shape: Shape,
        t_shape: Shape,
        form: Literal["neighbour", "kernel"] = "neighbour",
        dim: Count = 128,
        gamma: Positive = 0.4,
        order: Count = 2,
    ) -> None:
        super().__init__()
        self.form, self.gamma, self.order = form, gamma, order
        self.embed_s = nn.Linear(math.prod(s_shape), dim)
        self.embed_t = nn.Linear(math.prod(t_shape), dim)

    def forward(self, s: Tensor, t: Tensor, batch: Batch | None = None) -> Tensor:
        a, b = vectors(s, t)
        a, b = self.embed_s(a).float(), self.embed_t(b).float()
        if self.form == "neighbour":
            return neighbours(a, b)
        return (self.kernel(a) - self.kernel(b)).square().mean(1)

    def kernel(self, e: Tensor) -> Tensor:
        """The Gaussian kernel between all samples, (B, B), of embeddings (B, dim)."""
        cosine = inner(unit(e))
        series = torch.ones_like(cosine)
        for p in range(self.order, 0, -1):  # Horner's scheme
            series = 1 + 2 * self.gamma / p * cosine * series
        return math.exp(-2 * self.gamma) * series


def neighbours(a: Tensor, b: Tensor) -> Tensor:
    """Products of the differences of neighbours in the batch, shared out to its samples, (B,)."""
    delta = (a - b).abs()
    if len(a) == 1:
        return 0 * delta[:, 0]  # it has no neighbour
    pairs = (delta[:-1] * delta[1:]).sum(1)
    halves = F.avg_pool1d(pairs[None], 2, stride=1, padding=1)[0]  # of the pair before and of the one after
    return halves * (len(a) / (len(a) - 1))
