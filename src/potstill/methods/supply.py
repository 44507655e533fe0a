"""What the builder tells a loss of the nets at hand: each fact by the name that constructors ask for it."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from potstill.errors import ModelError
from potstill.losses.ofd import margin
from potstill.methods.probe import Look
from potstill.taps import find


@dataclass(frozen=True)
class End:
    """One end of a link: a net, what the dry pass found of it, and what it said there at the link's spots."""

    net: nn.Module
    look: Look
    spots: list[str]
    said: list[Tensor]
    order: Tensor | None = None


@dataclass(frozen=True)
class Ends:
    """Both ends of a link. ``single``: it has one spot, so a loss reads a tensor there, not a list."""

    student: End
    teacher: End
    single: bool

    def each(self, values: list[Any]) -> Any:
        return values[0] if self.single else values


def live_head(end: End) -> nn.Linear | None:
    """The last linear layer of a net that learns, itself; None where there is none."""
    if end.order is not None:
        raise ModelError(
            "the student's classes stand in another order than the data's: its classifier cannot be read by a loss",
            hint="a student with the classes of the data, or a method that reads no classifier",
        )
    head = find(end.net, end.look.head) if end.look.head else None
    return head if isinstance(head, nn.Linear) else None


@torch.no_grad()
def frozen_head(end: End) -> nn.Linear | None:
    """A frozen copy of a net's last linear layer, its rows in the order of the data's classes; None where there is none."""
    head = find(end.net, end.look.head) if end.look.head else None
    if not isinstance(head, nn.Linear):
        return None
    head = copy.deepcopy(head).requires_grad_(False)
    if end.order is not None:
        order = end.order.to(head.weight.device)
        head.out_features, head.weight = len(order), nn.Parameter(head.weight[order], False)
        head.bias = head.bias if head.bias is None else nn.Parameter(head.bias[order], False)
    return head


def margins(end: End) -> list[Tensor | None]:
    """OFD's margin of each spot, (C,), from the BatchNorm before its activation; None where there is none."""
    norms = [find(end.net, path) if (path := end.look.norms.get(spot)) else None for spot in end.spots]
    return [margin(n.weight, n.bias) if n is not None and n.weight is not None else None for n in norms]  # type: ignore[arg-type]


SUPPLY: dict[str, Callable[[Ends], Any]] = {
    "s_shape": lambda ends: ends.each([tuple(f.shape[1:]) for f in ends.student.said]),
    "t_shape": lambda ends: ends.each([tuple(f.shape[1:]) for f in ends.teacher.said]),
    "t_signed": lambda ends: ends.each([bool((f < 0).any()) for f in ends.teacher.said]),
    "s_head": lambda ends: live_head(ends.student),
    "t_head": lambda ends: frozen_head(ends.teacher),
    "t_margin": lambda ends: margins(ends.teacher),
    "s_regressor": lambda ends: None,
    "t_paraphraser": lambda ends: None,
}
"""What can be known of two nets. A list where the spot is a list, for shapes and ``t_signed``; ``t_margin`` always. The last ones
are made by the stage before, where one is run: see ``stages.parts``."""

NOTICES = {
    "t_paraphraser": "the paraphraser of the teacher's map is random: the published stage that trains it first is switched off"
}
"""What the user should know where a loss asks for this."""
