"""Whether a net that is run in another way is still the same net: what it says, its gradient, and what it remembers."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from potstill.taps import Tapped

SAYS, SLOPES = 1e-3, 2e-2
"""Relative L2 distances up to which what is said, and the gradient of a parameter, count as equal. Rounding makes 1e-6 and,
behind ReLUs that flip, up to 2e-3; gradients that a compiler got wrong were 30 % off and more."""
SMALL = 1e-2
"""A gradient smaller than this share of the usual one is compared with that share: a bias before a BatchNorm has nothing but
rounding."""


class Witness(NamedTuple):
    """A pass of a net: what it said, the gradient by parameter, its buffers afterwards."""

    said: dict[str, Tensor]
    slopes: dict[str, Tensor]
    buffers: dict[str, Tensor]


def witness(net: Tapped, x: Tensor, learns: bool = True) -> Witness:
    """What a pass of ``net``, as it stands, says of ``x``, and the gradient of a random sum of that where it ``learns``.

    Random numbers are those of seed 0; the net's buffers and the generators are left as they were.
    """
    owned = {k: p for k, p in net.named_parameters() if p.requires_grad and learns}
    before = {k: b.clone() for k, b in net.named_buffers()}
    draw = torch.Generator().manual_seed(1)
    devices = [x.device] if x.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices), torch.set_grad_enabled(learns):
        torch.manual_seed(0)
        said = net(x)
        slopes: dict[str, Tensor] = {}
        sums = []
        for _, value in sorted(said.items()):
            weight = torch.randn(value.shape, generator=draw).to(value.device)
            sums.append((value.float() * weight).sum() / math.sqrt(value.numel()))
        if owned:
            found = torch.autograd.grad(torch.stack(sums).sum(), [*owned.values()], allow_unused=True)
            slopes = {k: g.detach().clone() for k, g in zip(owned, found, strict=True) if g is not None}
    said = {k: v.detach().clone() for k, v in said.items()}
    after = {k: b.clone() for k, b in net.named_buffers()}
    with torch.no_grad():
        for k, b in net.named_buffers():
            b.copy_(before[k])
    return Witness(said, slopes, after)


def unlike(plain: Tapped, other: Tapped, x: Tensor, learns: bool = True) -> str | None:
    """What ``other`` does otherwise than ``plain`` on the batch ``x``; None: they are the same but for rounding.

    Under autocast both are held against ``plain`` in float32, and ``other`` may be three times as far from that.
    """
    eager, changed = witness(plain, x, learns), witness(other, x, learns)
    truth = eager
    if torch.is_autocast_enabled(x.device.type):
        with torch.autocast(x.device.type, enabled=False):
            truth = witness(plain, x, learns)
    if changed.slopes.keys() != eager.slopes.keys():
        return f"other parameters have gradients: {', '.join(sorted(changed.slopes.keys() ^ eager.slopes.keys())[:4])}"
    return (
        _far("what it says at", truth.said, eager.said, changed.said, SAYS)
        or _far("the gradient of", truth.slopes, eager.slopes, changed.slopes, SLOPES)
        or _far("afterwards the buffer", truth.buffers, eager.buffers, changed.buffers, SAYS)
    )


def _far(
    what: str, truth: Mapping[str, Tensor], eager: Mapping[str, Tensor], other: Mapping[str, Tensor], bound: float
) -> str | None:
    squares = [float(t.double().square().mean()) for t in truth.values() if t.is_floating_point()]
    usual = math.sqrt(sum(squares) / max(len(squares), 1))
    for name, t in truth.items():
        if not t.is_floating_point():
            if not torch.equal(eager[name], other[name]):
                return f"{what} {name!r} is another"
            continue
        t = t.double()
        size = max(float(t.norm()), SMALL * usual * math.sqrt(t.numel()), 1e-12)
        off, noise = (float((each[name].double() - t).norm()) / size for each in (other, eager))
        if not off <= bound + 3 * noise:
            return f"{what} {name!r} is {off:.1e} off (relative), allowed are {bound + 3 * noise:.1e}"
    return None
