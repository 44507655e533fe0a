"""What a preset says of a method. No torch: presets are read by ``potstill list``, ``show`` and the configuration."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Preset:
    """A method as it was published: which loss, where, with what weight.

    Attributes:
        name: what the user writes: ``--method NAME``, ``losses.NAME``.
        loss: where the class lives, ``package.module:Class``; imported only when a scheme is built.
        year: of publication.
        compares: what of the nets is compared, in a few words.
        at: the rule that finds the spots of any pair (see ``methods/probe.py``): ``logits``, ``penultimate``, ``last``
            (the last map), ``stage:K`` (the K-th stage, from 1), ``stages`` (a list: every stage), ``stages@pre`` ...
        weight: of the loss, with ``weight_source``: a number, or a schedule as a configuration writes it:
            ``{"from": 0, "to": 1, "end": 20 / 240}``.
        ce: weight of the labels' cross-entropy when the method is used alone.
        kd: weight of KD in ``NAME+kd``, a number or a schedule; cross-entropy then has weight 1.
        settings: published settings that differ from the defaults of the class.
        cacheable: whether the teacher's side can be kept on disk.
        use_when: one line of advice.
        notes: what differs from the authors' code and why; what ties the weight to a batch size or a resolution.
    """

    name: str
    loss: str
    year: int
    compares: str
    at: str
    weight: float | Mapping[str, Any]
    weight_source: str
    ce: float = 1.0
    kd: float | Mapping[str, Any] = 1.0
    settings: Mapping[str, Any] = field(default_factory=dict)
    cacheable: bool = True
    use_when: str = ""
    notes: str = ""
