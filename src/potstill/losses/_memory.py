"""What contrastive losses share: embeddings, banks that remember those of every sample, negatives, and NCE."""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from potstill.errors import ModelError
from potstill.losses._relations import unit
from potstill.types import Shape

EPS = 1e-7  # added to the noise's share in the authors' code
DENSE = (
    64  # scoring the whole bank beats gathering rows up to so many rows in it for each row wanted (measured: 50 to 100)
)


class Embed(nn.Module):
    """A linear map to unit vectors, (B, *shape) -> (B, out), in float32; maps and tokens are averaged over positions."""

    def __init__(self, shape: Shape, out: int) -> None:
        super().__init__()
        self.tokens = len(shape) == 2
        self.map = nn.Linear(shape[-1] if self.tokens else shape[0], out)

    def forward(self, f: Tensor) -> Tensor:
        with torch.autocast(f.device.type, enabled=False):
            f = f.float()
            f = f.mean(1) if self.tokens else f.flatten(2).mean(2) if f.ndim > 2 else f
            embedding: Tensor = unit(self.map(f))
            return embedding


class Negatives(nn.Module):
    """Draws samples of other classes, and of the same class, for each sample of a batch, on the batch's device.

    The samples lie sorted by class, so that "any other class" is a range with a gap: O(B k), nothing is kept per class.
    A sample without a label (-1) is a class of its own; with ``labels`` None every sample is.
    """

    order: Tensor
    start: Tensor
    count: Tensor
    cls: Tensor

    def __init__(self, labels: Tensor | None, num_samples: int) -> None:
        super().__init__()
        if labels is not None and len(labels) != num_samples:
            raise ModelError(f"the memory needs a label for each of {num_samples} training samples, got {len(labels)}")
        y = torch.full((num_samples,), -1) if labels is None else torch.as_tensor(labels).long().flatten()
        y = torch.where(y < 0, int(y.max()) + 1 + torch.arange(len(y)), y)
        names, cls, count = y.unique(return_inverse=True, return_counts=True)
        if len(names) < 2:
            raise ModelError(
                "contrastive losses need negatives, but all samples are of one class", hint="use rkd, which needs none"
            )
        self.register_buffer("cls", cls, persistent=False)
        self.register_buffer("count", count, persistent=False)
        self.register_buffer("start", count.cumsum(0) - count, persistent=False)
        self.register_buffer("order", cls.argsort(stable=True), persistent=False)

    @torch.compiler.disable
    def forward(self, ids: Tensor, k: int, balanced: bool) -> Tensor:
        """``k`` negatives of each sample with replacement, (B, k): every sample of another class is as likely, or,
        ``balanced``, every other class and then every sample of it."""
        own = self.cls[ids][:, None]
        if balanced:
            cls = below(len(self.count) - 1, (len(ids), k), ids.device)
            cls = cls + (cls >= own)
            return self.order[self.start[cls] + below(self.count[cls], (len(ids), k), ids.device)]
        place = below(len(self.cls) - self.count[own], (len(ids), k), ids.device)
        return self.order[place + self.count[own] * (place >= self.start[own])]

    def relatives(self, ids: Tensor) -> Tensor:
        """A random sample of the same class for each, (B,); it may be the sample itself."""
        own = self.cls[ids]
        return self.order[self.start[own] + below(self.count[own], ids.shape, ids.device)]


def below(limit: Tensor | int, size: tuple[int, ...], device: torch.device) -> Tensor:
    """Random integers in [0, limit): 2^62 outcomes folded, so that no bias is left and none reaches the limit."""
    return torch.randint(1 << 62, size, device=device) % limit


class Memory(nn.Module):
    """Remembers an embedding of every sample on both sides, and what NCE divides by.

    All of it is in ``state_dict``. Where several processes train, each remembers what all of them saw.

    Args:
        num_samples, dim: rows of a bank, width of an embedding.
        temperature, momentum: of the scores; how much of its past a row keeps.
    """

    student: Tensor
    teacher: Tensor
    log_z: Tensor

    def __init__(self, num_samples: int, dim: int, temperature: float, momentum: float) -> None:
        super().__init__()
        self.temperature, self.momentum = temperature, momentum
        bound = math.sqrt(3 / dim)  # rows of about unit length
        self.register_buffer("student", torch.empty(num_samples, dim).uniform_(-bound, bound))
        self.register_buffer("teacher", torch.empty(num_samples, dim).uniform_(-bound, bound))
        self.register_buffer("log_z", torch.full((2,), torch.nan))
        self.known = [False, False]  # whether log_z is set, kept here so that the device is asked once

    def _load_from_state_dict(self, *args: Any) -> None:
        super()._load_from_state_dict(*args)
        self.known = [False, False]

    def log_constant(self, side: Literal["student", "teacher"], logits: Tensor) -> Tensor:
        """log Z, fixed by the first batch (of all processes) as the mean of ``exp(logits)`` times the number of samples."""
        i = int(side == "teacher")
        if not self.known[i]:
            if bool(self.log_z[i].isnan()):
                (sums,) = everyones(torch.stack([logits.logsumexp(0), logits.new_tensor(logits.numel()).log()])[None])
                log_z = sums[:, 0].logsumexp(0) - sums[:, 1].logsumexp(0) + math.log(len(self.student))
                if not self.training:
                    return log_z
                self.log_z[i] = log_z
            self.known[i] = True
        return self.log_z[i]

    @torch.compiler.disable
    @torch.no_grad()
    def remember(self, ids: Tensor, z_s: Tensor, z_t: Tensor) -> None:
        """Move the rows of ``ids`` towards the new embeddings (B, d), in training only. Call it after scoring."""
        if not self.training:
            return
        ids, z_s, z_t = everyones(ids, z_s, z_t)
        last = last_of_each(ids)
        for bank, z in ((self.student, z_s), (self.teacher, z_t)):
            bank[ids] = unit(self.momentum * bank[ids] + (1 - self.momentum) * z[last])

    @torch.compiler.disable
    def nce(self, z: Tensor, against: Literal["student", "teacher"], index: Tensor) -> Tensor:
        """NCE of each embedding (B, d) against the rows ``index``, (B, 1 + K), of the other side's bank; the first is the
        positive. Result (B,).

        The gradient is formed here and nothing of the bank is kept, so that it can be overwritten at once.
        """
        bank = self.teacher if against == "teacher" else self.student
        with torch.no_grad(), torch.autocast(z.device.type, enabled=False):
            dense = len(bank) <= DENSE * index.shape[1]
            rows = bank if dense else bank[index]
            scores = z @ bank.T if dense else torch.bmm(rows, z[:, :, None])[:, :, 0]
            logits = (scores.gather(1, index) if dense else scores) / self.temperature
            log_z = self.log_constant("student" if against == "teacher" else "teacher", logits.flatten())
            value, p = nce(logits - log_z, len(bank))
            p = p / self.temperature
            gradient = scores.zero_().scatter_add_(1, index, p) @ rows if dense else torch.bmm(p[:, None], rows)[:, 0]
        return value + (gradient * (z - z.detach())).sum(1)


def last_of_each(ids: Tensor) -> Tensor:
    """For each id the place of its last occurrence, (B,): where a sample is seen twice, every process keeps the same view
    (the order in which a GPU writes twice to one row is open)."""
    ranked, at = ids.sort(stable=True)
    return at[torch.searchsorted(ranked, ids, right=True) - 1]


def nce(log_h: Tensor, num_samples: int) -> tuple[Tensor, Tensor]:
    r"""NCE as binary cross-entropy with logits over the last axis, whose first entry is the positive.

    With noise :math:`c = K/N`, :math:`-\log\frac{h_0}{h_0+c} - \sum_k \log\frac{c}{h_k+c}` is
    :math:`\mathrm{softplus}(-x_0) + \sum_k \mathrm{softplus}(x_k)` of :math:`x = \log h - \log c`, which neither over- nor
    underflows. The authors' 1e-7 beside c is kept.

    Returns:
        the value, (...), and its gradient with respect to ``log_h``, (..., 1 + K).
    """
    k = log_h.shape[-1] - 1
    c = k / num_samples
    x = log_h - math.log(c + EPS)
    value = F.softplus(-x[..., 0]) + F.softplus(x[..., 1:]).sum(-1) + k * math.log1p(EPS / c)
    gradient = x.sigmoid()
    gradient[..., 0] -= 1
    return value, gradient


def everyones(*tensors: Tensor) -> tuple[Tensor, ...]:
    """The tensors of all processes one after the other, by rank; lengths may differ. As given where there is one process."""
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return tensors
    n = torch.tensor([len(tensors[0])], device=tensors[0].device)
    lengths = [torch.empty_like(n) for _ in range(dist.get_world_size())]
    dist.all_gather(lengths, n)
    sizes = [int(length) for length in torch.cat(lengths).tolist()]
    gathered = []
    for x in tensors:
        padded = F.pad(x, [0, 0] * (x.ndim - 1) + [0, max(sizes) - len(x)]).contiguous()
        parts = [torch.empty_like(padded) for _ in sizes]
        dist.all_gather(parts, padded)
        gathered.append(torch.cat([part[:size] for part, size in zip(parts, sizes, strict=True)]))
    return tuple(gathered)
