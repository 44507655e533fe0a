"""What a preset says of a method. No torch: presets are read by ``potstill list``, ``show`` and the configuration."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal


@dataclass(frozen=True)
class Before:
    """A stage before the main one: what a method trains first, as it was published.

    Attributes:
        share: of the run's epochs, one at least. A stage that trains the student takes them from the run's epochs, for the
            budget of a student is its steps; one that leaves it alone comes on top.
        use: the loss of this stage, a method's name or ``package.module:Class``; by default the method's own, whose adapters go
            on into the main stage. Another one's parts are handed to the method's loss as facts (its ``paraphraser`` as
            ``t_paraphraser``); of the method's settings it has those that it knows.
        weight: of that loss in this stage.
        trains: ``student``: the layers of the student that the stage's losses reach, and the adapters; all behind them is
            frozen and in eval mode. ``adapters``: the loss's own parameters.
        alone: whether the other losses of the run wait (initialisation, at a constant learning rate), or are trained beside it
            (a warm-up, with the run's schedule).
        lr: the learning rate of this stage as a share of the run's.
        main_lr: that of the main stage.
        main_weight: of the method's loss in the main stage; None: the preset's.
        source: of the numbers.
    """

    share: float
    use: str | None = None
    weight: float = 1.0
    trains: Literal["student", "adapters"] = "student"
    alone: bool = True
    lr: float = 1.0
    main_lr: float = 1.0
    main_weight: float | None = None
    source: str = ""

    def settings(self) -> dict[str, Any]:
        """What a configuration says of it."""
        return {k: v for k, v in vars(self).items() if k not in ("main_weight", "source")}

    def __str__(self) -> str:
        """``this loss alone for 0.111 of the epochs: ...``, for people."""
        what = self.use.rpartition(":")[2] if self.use else "this loss"
        share = f"{'alone' if self.alone else 'beside the others'} for {self.share:.3g} of the epochs"
        trained = "its own parameters only" if self.trains == "adapters" else "the student's layers that it reaches"
        trained = trained if self.alone else "the whole student"
        rate = f"; learning rate x {self.lr:g}" if self.lr != 1 else ""
        then = f"; learning rate x {self.main_lr:g} in the main stage" if self.main_lr != 1 else ""
        weight = "" if self.main_weight is None else f"; weight {self.main_weight:g} in the main stage"
        return f"{what} {share}: {trained}{rate}{then}{weight}"


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
        before: the stage that comes first, where the method was published with one.
        beside: other losses that belong to the method, as a configuration writes them; not in ``NAME+kd``, whose KD stands
            for them.
        settings: published settings that differ from the defaults of the class.
        cacheable: whether the teacher's side can be kept on disk.
        second: the augmentation of a second view of each sample, ``{"colour": 0.4}``, beside the usual crop and mirror; None: the
            method reads one view.
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
    before: Before | None = None
    beside: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    cacheable: bool = True
    second: Mapping[str, Any] | None = None
    use_when: str = ""
    notes: str = ""

    def main_weight(self, staged: bool) -> float | dict[str, Any]:
        """The weight in the main stage, ``staged`` or without the stage before it."""
        if staged and self.before and self.before.main_weight is not None:
            return self.before.main_weight
        return dict(self.weight) if isinstance(self.weight, Mapping) else self.weight
