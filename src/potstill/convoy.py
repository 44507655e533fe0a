"""Runs side by side: which of them share their batches and one pass of the teacher, and which wait for their turn."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch

from potstill.cache.key import fingerprint
from potstill.config.merge import leaves
from potstill.errors import InterruptedRun
from potstill.meant import second_of
from potstill.methods.build import Built
from potstill.pace import read, written
from potstill.ready import Ready
from potstill.teacher import Sped
from potstill.together import Group, Turns, hindrance

SHARED = {"data", "teacher", "precision", "device", "accumulate"}
"""Settings that must be the same: what batches and the teacher's answers to them follow from."""


@dataclass
class Part:
    """Runs of a convoy that share, and are trained side by side; the next part begins when they are done.

    Attributes:
        number: of the part, in the order of their turns.
        first: the run that came first.
        turns: when all save and stop.
        threads: on which its nets run.
        alone: why nobody can share with it; None: others can.
        groups: of the students, by the seed of the order of their pictures.
        sped, paced: how their teacher runs, as in ``Ready``.
    """

    number: int
    first: Ready
    turns: Turns
    threads: int
    alone: str | None
    groups: dict[int, Group] = field(default_factory=dict)
    sped: dict[tuple[str, ...], Sped] = field(default_factory=dict)
    paced: dict[tuple[str, ...], dict[str, Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.sped, self.paced = dict(self.first.sped), read(written(self.first))

    def group(self, ready: Ready, seed: int) -> Group | None:
        """With whom the student of a seed shares; None: with nobody."""
        order = ready.config.order(seed)
        if order not in self.groups and not self.alone:
            self.groups[order] = Group(ready.stream(seed), self.turns)
        return self.groups.get(order)

    def unlike(self, ready: Ready) -> str | None:
        """Why a run cannot share with these after its rehearsal; None: it can."""
        if why := unlike(self.first, ready):
            return why
        if self.first.channels_last != ready.channels_last:
            return "its nets want maps in another memory format"
        return "its nets run on another number of threads" if self.threads != torch.get_num_threads() else None

    def share(self, ready: Ready, built: Built) -> None:
        """Let a run have the data and the teacher of the first, which are the same: one copy in memory, and one net to ask.

        Args:
            built: by its rehearsal: nobody asks its own teacher again.
        """
        first = self.first
        ready.splits, ready.teacher, ready.teacher_order = first.splits, first.teacher, first.teacher_order
        ready.paced = {spots: how for spots, how in read(written(ready)).items() if spots in ready.sped}
        self.paced = {**ready.paced, **self.paced}
        for spots, sped in [*ready.sped.items()]:
            if not sped.how:
                del ready.sped[spots]  # the teacher as it was given: that of all
            elif self.sped.setdefault(spots, sped).how == sped.how:
                ready.sped[spots] = self.sped[spots]
        for scheme in (*(stage.scheme for stage in built.before), built.scheme):
            if "teacher" in scheme.nets:
                del scheme.nets["teacher"]


class Convoy:
    """Runs of one process that are trained side by side, as ``side_by_side`` gives them their turns.

    Those that see other pictures, or ask another teacher, cannot share: they come one after the other.

    Args:
        asked: whether somebody wants them to stop.
        every: seconds between checkpoints.
        say: is told why a run cannot share with those before it.
    """

    def __init__(
        self, asked: Callable[[], bool], every: float, say: Callable[[str], None] = lambda reason: None
    ) -> None:
        self.turns, self.say = Turns(asked, every), say
        self.parts: list[Part] = []

    def meet(self, ready: Ready) -> None:
        """Before the rehearsal of a run: its teacher is made faster as that of those with whom it may share, for timings may
        say otherwise each time. What it was started with itself stays."""
        for part in self.parts:
            if not part.alone and not unlike(part.first, ready):
                ready.paced = {**part.paced, **ready.paced}

    def enter(self, ready: Ready, built: Built) -> Part:
        """After the rehearsal of a run: with whom it shares."""
        ready.at_once = 1  # its own seeds come one after the other, each beside those of the others
        alone = hindrance(ready, [*(first.scheme for first in built.before), built.scheme])
        whys = {part.number: alone or part.alone or part.unlike(ready) for part in self.parts}
        for part in self.parts:
            if whys[part.number] is None:
                part.share(ready, built)
                return part
        self.parts.append(Part(len(self.parts), ready, self.turns, torch.get_num_threads(), alone))
        if reason := alone or next(filter(None, whys.values()), None):
            self.say(reason)
        return self.parts[-1]

    def begin(self) -> None:
        """It is a run's turn.

        Raises:
            InterruptedRun: they are to stop.
        """
        if self.turns.stopping or self.turns.asked():
            raise InterruptedRun("stopped before it began")


def unlike(a: Ready, b: Ready) -> str | None:
    """Why two runs cannot share, as far as it is known before their rehearsal; None: they can."""
    one, two = (dict(leaves(r.config.model_dump(mode="json", by_alias=True, include=SHARED))) for r in (a, b))
    if differ := [key for key in {**one, **two} if one.get(key) != two.get(key)]:
        return "another " + ", ".join(".".join(map(str, key)) for key in differ)
    if a.config.order(a.config.seed) != b.config.order(b.config.seed):
        return f"another order of the pictures; data.order={a.config.seed} would give all the same one"
    if a.splits.fingerprint != b.splits.fingerprint:
        return "other data"
    if repr(second_of(a.config, a.splits)) != repr(second_of(b.config, b.splits)):
        return "another second view of the pictures"
    if a.teacher is None or b.teacher is None:
        return "the teacher is taught first"
    facts = [
        (fingerprint(r.teacher.module), repr(r.teacher.preprocess), str(r.teacher_order))
        for r in (a, b)
        if r.teacher is not None
    ]
    return "another teacher" if facts[0] != facts[1] else None
