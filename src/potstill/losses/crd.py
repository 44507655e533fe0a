"""Contrastive representation distillation."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from potstill.losses._memory import Embed, Memory, Negatives
from potstill.losses.base import Loss
from potstill.ranges import Count, Positive, Share
from potstill.types import Batch, Shape


class CRD(Loss):
    r"""Tell the teacher's embedding of one's own sample from those of K other samples, and the student's likewise.

    With unit embeddings :math:`e^s = W_s v^s, e^t = W_t v^t`, memories :math:`M^s, M^t` of all N training samples,
    :math:`h_k = \exp(e^s \cdot M^t_{i_k} / \tau) / Z` for the positive :math:`i_0` and negatives :math:`i_1 .. i_K`, and
    noise :math:`c = K / N`,

    .. math:: \ell_b = -\log \frac{h_0}{h_0 + c} - \sum_{k=1}^{K} \log \frac{c}{h_k + c}

    plus the same of :math:`e^t` against :math:`M^s`. Both maps W are trained. After scoring, in training, the batch's rows
    become :math:`M_i \leftarrow \mathrm{norm}(m M_i + (1 - m) e_i)`; Z is fixed by the first batch as the mean of
    :math:`\exp(\cdot / \tau)` times N. Memories and Z are in ``state_dict``; processes exchange what they saw.

    Args:
        s_shape, t_shape, num_samples, labels: filled in by probing. Negatives are of other classes; a sample whose label is
            -1 (all of them where ``labels`` is None) is a class of its own.
        dim: width of an embedding; 128 in the authors' code, as all defaults here.
        negatives: K; 16384. On a CPU 256 to 1024 are much faster.
        temperature: tau; 0.07.
        momentum: m, what a row keeps of its past; 0.5.
        positives: ``exact``: the sample itself; ``relaxed``: any sample of its class (the authors' ``relax``).
        balanced: draw the class of a negative first, so that rare classes are met as often as frequent ones; False in the
            authors' code, which draws samples. The same on balanced data.

    Shape: ``s``, ``t``: vectors (B, d), or maps and tokens, which are averaged. Reads ``batch.ids``. Result: (B,).

    Differs from the authors' code: negatives are drawn here, on the batch's device, with replacement (each has the same
    distribution, so the expected loss is the same; theirs draws without, 16384 of 49500, in the data loader at 6 ms a sample);
    NCE is binary cross-entropy with logits in float32, so it cannot overflow; the bank is scored by one matrix product.

    Raises:
        ModelError: all samples are of one class.

    Paper: Tian, Krishnan, Isola, ICLR 2020, arXiv 1910.10699, eq. 18
    """

    def __init__(
        self,
        s_shape: Shape,
        t_shape: Shape,
        num_samples: int,
        labels: Tensor | None = None,
        dim: Count = 128,
        negatives: Count = 16384,
        temperature: Positive = 0.07,
        momentum: Share = 0.5,
        positives: Literal["exact", "relaxed"] = "exact",
        balanced: bool = False,
    ) -> None:
        super().__init__()
        self.negatives, self.positives, self.balanced = negatives, positives, balanced
        self.embed_s, self.embed_t = Embed(s_shape, dim), Embed(t_shape, dim)
        self.memory = Memory(num_samples, dim, temperature, momentum)
        self.others = Negatives(labels, num_samples)

    def forward(self, s: Tensor, t: Tensor, batch: Batch | None = None, index: Tensor | None = None) -> Tensor:
        """The loss of each sample, (B,).

        Args:
            index: the samples to compare with, (B, 1 + K), the positive first; drawn when None.
        """
        if batch is None:
            raise TypeError("CRD remembers samples by their ids: give it the batch")
        z_s, z_t = self.embed_s(s), self.embed_t(t)
        index = self.draw(batch.ids) if index is None else index
        loss = self.memory.nce(z_s, "teacher", index) + self.memory.nce(z_t, "student", index)
        self.memory.remember(batch.ids, z_s, z_t)
        return loss

    def draw(self, ids: Tensor) -> Tensor:
        """The positive and K negatives of each sample, (B, 1 + K)."""
        positive = ids if self.positives == "exact" else self.others.relatives(ids)
        return torch.cat([positive[:, None], self.others(ids, self.negatives, self.balanced)], dim=1)
