"""The net that a trial delivers: the student itself, or its body with the head that a loss brings for it."""

from __future__ import annotations

import copy
import dataclasses

import torch
from torch import Tensor

from potstill.errors import ModelError
from potstill.methods.build import Built
from potstill.models.net import Net
from potstill.models.reused import Head, Reused


class Delivery:
    """What becomes of a student. SimKD's answers through a projector and the teacher's classifier (``loss.deployed_head()``).

    Args:
        student: the net that is trained.
        built: its scheme.

    Attributes:
        net: what is measured, saved and delivered: ``student``, or a net with copies of its weights.

    Raises:
        ModelError: the head cannot be put on this student.
    """

    def __init__(self, student: Net, built: Built) -> None:
        self.student, self.net, self.loss = student, student, None
        if built.head is None:
            return
        self.loss = built.head.loss
        head = self.loss.deployed_head()
        if "#" in built.head.at:
            raise ModelError(
                f"a student cannot be delivered with a head at {built.head.at!r}, one of several calls of a layer",
                hint="losses.NAME.at=[student_spot, teacher_spot] at a layer that runs once",
            )
        c, h, w = built.head.map
        projector = head.projector
        record = Head(
            built.head.at,
            built.head.own,
            (c, h, w),
            projector[0].out_channels,
            projector[6].out_channels,
            head.size,
            isinstance(projector[8], torch.nn.ReLU),
            len(head.classifier.weight),
        )
        body = copy.deepcopy(student.module)
        self.net = dataclasses.replace(student, module=Reused(body, record), head=record)
        self.refresh()

    @torch.no_grad()
    def refresh(self) -> Net:
        """The net with the student's weights of now."""
        if self.loss is not None:
            now: dict[str, Tensor] = {f"body.{k}": v for k, v in self.student.module.state_dict().items()}
            now |= self.loss.deployed_head().state_dict()
            for name, value in self.net.module.state_dict().items():
                value.copy_(now[name])
        return self.net
