"""Whether a loss of accuracy on so many pictures is more than chance would do."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from scipy.stats import binomtest
from torch import Tensor

LEVEL = 0.05
"""A loss that chance would do more often than this is no proof of harm."""
LEAST = 5
"""So many answers must become wrong, and none right, before chance is ruled out: 0.5^5 = 0.03 is below LEVEL, 0.5^4 is not."""
Z = 1.645
"""The quantile of a normal distribution that belongs to LEVEL, one-sided."""


def changed(z: Tensor, floats: Tensor, y: Tensor) -> dict[str, Any]:
    """The answers that became wrong (``worse``) and right (``better``), and the chance of so many or more of the former.

    ``chance`` is the exact one-sided McNemar test: were a change as likely for the better as for the worse, at least
    ``worse`` of the ``worse + better`` that changed would be for the worse with that probability. Pictures that both nets
    have right, or both wrong, say nothing of the difference.

    Args:
        z, floats: logits (N, C) of what is judged and of the net that it was made from, on the same pictures.
        y: their labels (N,); negative: none.
    """
    before, after = floats.argmax(1) == y, z.argmax(1) == y
    worse, better = torch.stack([before & ~after, after & ~before]).sum(1).tolist()
    chance = binomtest(worse, worse + better, alternative="greater").pvalue if worse else 1.0
    return {"worse": worse, "better": better, "chance": float(chance)}


def proven(found: Mapping[str, Any]) -> bool:
    """Whether a measure with what :func:`changed` says is a loss beyond chance."""
    return bool(found["chance"] < LEVEL)


def unproven(row: Mapping[str, Any], allowed: float) -> str | None:
    """What to say of a drop above what is allowed that may be chance; None: there is none."""
    own = row["val"]
    if own.get("drop", 0.0) <= allowed or proven(own):
        return None
    worse, better = own["worse"], own["better"]
    both, more = (
        worse + better,
        worse - better,
    )  # k times as many pictures tell from k * more - 1 >= Z * sqrt(k * both) on
    enough = own["n"] * ((Z * both**0.5 + (Z**2 * both + 4 * more) ** 0.5) / (2 * more)) ** 2
    return (
        f"cannot tell with {own['n']:,} validation pictures whether {row['name']} is worse: it loses {own['drop']:.2f} points, "
        f"{allowed:g} are allowed, but {worse} answers that became wrong and {better} that became right are what chance does "
        f"in {100 * own['chance']:.0f} % of cases; about {float(f'{enough:.2g}'):,.0f} such pictures would tell. Not refused"
    )


def blind(n: int, allowed: float) -> str | None:
    """What to say where ``n`` pictures can prove no drop as small as ``allowed`` points; None: they can."""
    least = 100 * LEAST / max(n, 1)
    if least <= allowed:
        return None
    return (
        f"{n:,} validation pictures prove no loss below {least:.1f} points, {allowed:g} are allowed: smaller ones pass"
    )
