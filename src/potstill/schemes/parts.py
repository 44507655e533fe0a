"""Taking a loss apart: one spot of a list alone, or some of the samples; and finding out whether that means something."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from potstill.losses.base import Loss
from potstill.types import Batch


def part(loss: Loss, i: int, n: int) -> Loss:
    """A loss over ``n`` spots as that of spot ``i`` alone, to be called with lists of one.

    It is a view: parameters, buffers and mode are those of ``loss``, of lists of ``n`` modules or parameters it has the i-th.
    """
    view = copy.copy(loss)
    view._modules = {
        name: type(m)([m[i]]) if isinstance(m, nn.ModuleList | nn.ParameterList) and len(m) == n else m
        for name, m in loss._modules.items()
    }
    return view


def terms(loss: Loss, s: Sequence[Tensor], t: Sequence[Tensor], batch: Batch | None) -> list[Tensor]:
    """What each spot adds to a loss that sums over its spots, (B,) each. A loss may say so itself by ``terms(s, t, batch)``."""
    own: Callable[..., Sequence[Tensor]] | None = getattr(loss, "terms", None)
    if own is not None:
        return list(own(s, t, batch))
    n = len(s)
    return [part(loss, i, n)([s[i]], [t[i]], batch) for i in range(n)]


@torch.no_grad()
def additive(loss: Loss, s: Sequence[Tensor], t: Sequence[Tensor], batch: Batch) -> bool:
    """Whether the loss is the sum of its :func:`terms`, tried on an example with a copy of it."""
    loss = copy.deepcopy(loss).eval()
    with torch.random.fork_rng(devices=[]):
        try:
            torch.manual_seed(0)
            whole = loss(s, t, batch)
            torch.manual_seed(0)
            return torch.allclose(whole, torch.stack(terms(loss, s, t, batch)).sum(0), rtol=1e-4, atol=1e-7)
        except Exception:
            return False  # it cannot be called with one spot


@torch.no_grad()
def relational(loss: Loss, s: Sequence[Tensor], t: Sequence[Tensor], batch: Batch, single: bool) -> bool:
    """Whether a sample's loss depends on the other samples: tried on an example by changing the last of them."""
    first = copy.deepcopy(loss).train()
    with torch.random.fork_rng(devices=[]):

        def rows(loss: Loss, ours: Sequence[Tensor]) -> Tensor:
            torch.manual_seed(0)
            result: Tensor = loss(ours[0], t[0], batch) if single else loss(list(ours), t, batch)
            return result

        rows(first, s)  # so that a memory knows its scale
        first.eval()
        other = [torch.cat([f[:-1], f[-1:].flip(-1) * 1.5 + 0.1]) for f in s]
        before, after = rows(copy.deepcopy(first), s), rows(first, other)
    return loss.couples or not torch.allclose(before[:-1], after[:-1], rtol=1e-5, atol=1e-8)


def chosen(batch: Batch, index: Tensor) -> Batch:
    """Some samples of a batch."""
    x, y, ids, views = (f[index] for f in (batch.x, batch.y, batch.ids, batch.views))
    targets, second = (None if f is None else f[index] for f in (batch.targets, batch.second))
    return batch._replace(x=x, y=y, ids=ids, views=views, targets=targets, second=second)
