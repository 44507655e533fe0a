"""The routing network: teacher and student cut at the same spots, each sample taking one way or the other at each."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from potstill.schemes.bridges import Bridge, End
from potstill.segments import Segments, evaluating, without_slopes
from potstill.taps import Tapped
from potstill.types import Shape


class Branch(NamedTuple):
    """A spot of the routing network and what both nets say there, by shape without the batch."""

    student: str
    teacher: str
    s_shape: Shape
    t_shape: Shape


class Routing(nn.Module):
    r"""Runs a batch through both nets at once; at each branch a decision chooses whose value goes on.

    With segments :math:`S_k, T_k`, bridges :math:`H^{st}_k, H^{ts}_k` and decisions :math:`a_k \in \{0, 1\}` of each sample,

    .. math:: g^s = S_k(u^s), \quad g^t = T_k(u^t), \qquad u^t = (1 - a_k) H^{st}_k(g^s) + a_k g^t, \quad
              u^s = (1 - a_k) g^s + a_k H^{ts}_k(g^t)

    and at the logits :math:`\hat z = (1 - a) g^s + a g^t`. Both nets are in eval mode meanwhile (running statistics, which
    stay as they are) and get no gradient; bridges and decisions do, through the activations of both.

    Args:
        student, teacher: the nets, each with its preparation and order of classes. They are not part of this module.
        branches: the spots before the logits, in the order in which both nets get to them.
        x: a few pictures to try the cuts on, (B, C, H, W); two or more.
        bridges: see :class:`Bridge`.

    Raises:
        ModelError: a net cannot be cut there (see :class:`Segments`).
    """

    ends: tuple[Tapped, Tapped]

    def __init__(
        self, student: Tapped, teacher: Tapped, branches: Sequence[Branch], x: Tensor, bridges: End = "plain"
    ) -> None:
        super().__init__()
        object.__setattr__(self, "ends", (student, teacher))  # they belong to the scheme
        self.branches, self.linear = tuple(branches), bridges == "plain"
        self.student = Segments(student.net, [b.student for b in branches], prepared(student, x))
        self.teacher = Segments(teacher.net, [b.teacher for b in branches], prepared(teacher, x))
        self.to_teacher = nn.ModuleList(Bridge(b.s_shape, b.t_shape, bridges) for b in branches)
        self.to_student = nn.ModuleList(Bridge(b.t_shape, b.s_shape, bridges) for b in branches)

    def forward(self, x: Tensor, a: Tensor, said: Mapping[str, Tensor] | None = None) -> Tensor:
        """The logits that leave the routing network, (B, classes).

        Args:
            x: pictures, (B, C, H, W).
            a: decisions, (B, branches + 1), the logits' last.
            said: what the teacher said of ``x`` in eval mode, by spot. Its first segment is not run again then.
        """
        student, teacher = self.ends
        with evaluating(student, teacher), without_slopes(student, teacher):
            s = self.student[0](prepared(student, x))
            spot = self.branches[0].teacher if self.branches else "logits"
            if said is not None:
                t = said[spot].detach()
            else:
                t = self.teacher[0](prepared(teacher, x))
                t = ordered(teacher, t) if spot == "logits" else t
            for k, (to_t, to_s) in enumerate(zip(self.to_teacher, self.to_student, strict=True)):
                s, t = fused(s, to_s(t), a[:, k]), fused(to_t(s), t, a[:, k])
                last = k + 1 == len(self.branches)
                way = a[:, k + 1].detach() > 0.5 if x.device.type == "cpu" and (last or self.linear) else None
                s = segment_of(self.student[k + 1], s, None if way is None else ~way)
                t = segment_of(self.teacher[k + 1], t, way)
            if self.branches:
                t = ordered(teacher, t)
            return fused(ordered(student, s), t, a[:, -1])


def segment_of(segment: Callable[[Tensor], Tensor], u: Tensor, taken: Tensor | None) -> Tensor:
    """A segment of every sample, with a graph only for those ``taken``, (B,); None: for all.

    What leaves a segment is multiplied by the decision of the next branch, or by one less that, so the gradient of the way not
    taken is exactly 0 and need not be computed; its value is needed. (Not so where BatchNorm in a bridge ties the samples.) To
    find the samples would make an accelerator wait, and there two half batches cost more than they save: on a CPU only.
    """
    if taken is None or bool(taken.all()):
        return segment(u)
    if not bool(taken.any()):
        with torch.no_grad():
            return segment(u)
    yes, no = taken.nonzero()[:, 0], (~taken).nonzero()[:, 0]
    with torch.no_grad():
        without = segment(u[no])
    found = segment(u[yes])
    return torch.cat([found, without])[torch.cat([yes, no]).argsort()]


def fused(s: Tensor, t: Tensor, a: Tensor) -> Tensor:
    """(1 - a) s + a t with a number ``a`` for each sample, (B,); exactly ``s`` or ``t`` where a is 0 or 1."""
    dtype = torch.promote_types(s.dtype, t.dtype)
    return torch.lerp(s.to(dtype), t.to(dtype), a.to(dtype).reshape(-1, *[1] * (s.ndim - 1)))


def prepared(tapped: Tapped, x: Tensor) -> Tensor:
    """The pictures as the net itself reads them."""
    return x if tapped.prepare is None else tapped.prepare(x)


def ordered(tapped: Tapped, logits: Tensor) -> Tensor:
    """The logits in the order of the data's classes."""
    return logits if tapped.order is None else logits[:, tapped.order]


__all__ = ["Branch", "Routing", "fused", "ordered", "prepared"]
