"""Students side by side: each batch is made once and the teacher asked about it once, for all of them.

Each student is trained by the same code as alone, a step at a time, and its random numbers, weights, sums and checkpoints are
its own: what becomes of it is, bit for bit, what would have become of it alone on the same batches.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from potstill.console import Console
from potstill.engine import Batches, Position
from potstill.errors import InterruptedRun, PotstillError
from potstill.ready import Ready
from potstill.schemes.scheme import Scheme
from potstill.schemes.spot_adaptive import SpotAdaptive
from potstill.taps import Frozen, Tapped
from potstill.types import Batch, Out

R = TypeVar("R")
Schemes = Iterable[Scheme | SpotAdaptive]
Place = tuple[int, ...]
"""How far a trial is, the number of its steps last; whoever is least far is next."""


def at_once(ready: Ready, schemes: Schemes) -> tuple[int, list[str]]:
    """How many students are trained side by side, and lines that say so, or why they are not."""
    c = ready.config
    if c.together == 1:
        return 1, []
    order = f"all see the pictures in the order of seed {c.order(c.seed)}"
    if reason := "there is one seed" if c.seeds == 1 else hindrance(ready, list(schemes)):
        after = [f"         one after the other, with the same result; {order}"] if c.seeds > 1 else []
        return 1, [f"together no: {reason}", *after]
    n = min(c.together, c.seeds)
    return n, [f"together {n} students on one pass of the teacher; {order}"]


def hindrance(ready: Ready, schemes: list[Scheme | SpotAdaptive]) -> str | None:
    """Why one pass of the teacher cannot serve several students; None: it can."""
    c = ready.config
    if any(isinstance(scheme, SpotAdaptive) for scheme in schemes):
        return "spot-adaptive distillation runs the teacher's layers as each student's decisions want it"
    asked = [scheme.nets["teacher"] for scheme in schemes if "teacher" in scheme.active]
    reasons = {
        "no teacher is asked": not asked,
        "the teacher learns too": not all(isinstance(net, Frozen) for net in asked),
        "with cache=true the teacher is asked once anyway, and without --together each seed has an order of its own": c.cache.on,
        "nets that are compiled share what is compiled": c.compile,
        "precision=16 has one scale of the gradients for all": c.precision == "16",
        "several processes train each student": ready.fabric.world_size > 1,
    }
    return next((reason for reason, true in reasons.items() if true), None)


class Once(Frozen):
    """A frozen teacher that is asked about each tensor once, and heard at the spots of all who listen. An answer is kept until
    :meth:`forget`, as long as neither it nor what was asked about is changed in place."""

    def __init__(self, live: Frozen) -> None:
        super().__init__(live.net, live.home)
        self.said: dict[tuple[Any, ...], tuple[Tensor, Out, list[int]]] = {}

    def forward(self, x: Tensor) -> Out:
        # by memory, not identity: the parts of a batch are new views of it each time
        key = (x.data_ptr(), x.shape, x.stride(), x._version)
        kept = self.said.get(key)
        if kept is None or kept[2] != [v._version for v in kept[1].values()]:
            said: Out = super().forward(x)
            # with x, whose memory nobody else gets then
            kept = self.said[key] = (x, said, [v._version for v in said.values()])
        return dict(kept[1])

    def listen(self, spots: Iterable[str]) -> None:
        """Hear these spots too. Hooks alone: what the net computes stays the same, to the last bit."""
        heard = self.net
        assert isinstance(heard, Tapped)
        if not {*spots} <= {*heard.spots}:
            every = sorted({*heard.spots, *spots})
            super().__init__(Tapped(heard.net, every, heard.prepare, heard.order), self.home)
            self.said = {}

    def forget(self) -> None:
        """Forget all answers."""
        self.said.clear()


class Turns:
    """When all who take turns save, and when they stop: decided once a round.

    Args:
        asked: whether somebody wants them to stop.
        every: seconds between checkpoints.
    """

    def __init__(self, asked: Callable[[], bool] = lambda: False, every: float = 60.0) -> None:
        self.asked, self.every = asked, every
        self.stopping, self.saving, self.saved = False, False, time.monotonic()

    def turn(self) -> None:
        """Decide for all whether the next step is followed by a checkpoint, and whether it is the last."""
        now = time.monotonic()
        self.stopping = self.stopping or self.asked()
        self.saving = now - self.saved > self.every
        self.saved = now if self.saving else self.saved

    def stop(self) -> bool:
        """Whether to stop after this step."""
        return self.stopping

    def due(self) -> bool:
        """Whether a checkpoint is due after this step."""
        return self.saving


class Group:
    """What students who see the same pictures share: the batches and the teacher, and when they save and stop.

    Args:
        stream: of their batches, which are made once.
        turns: when they save and stop.
    """

    def __init__(self, stream: Batches, turns: Turns | None = None) -> None:
        self.stream, self.turns = stream, turns or Turns()
        self.teachers: dict[nn.Module, Once] = {}
        self.at: tuple[int, int] | None = None
        self.going: Iterator[Batch] = iter(())
        self.batch: Batch
        self.versions: list[int]

    def __len__(self) -> int:
        return len(self.stream)

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """The batches of an epoch from step ``start`` on: the same objects for all who are at the same step."""
        for step in range(start, len(self)):
            if self.at != (epoch, step) or _versions(self.batch) != self.versions:
                if self.at != (epoch, step - 1):
                    self.going = self.stream.epoch(epoch, step)
                self.at, self.batch = (epoch, step), next(self.going)
                self.versions = _versions(self.batch)
                for teacher in self.teachers.values():
                    teacher.forget()
            yield self.batch

    def join(self, schemes: Schemes) -> None:
        """Put the teacher that is asked once in the places of the schemes' own: one net is asked once, wherever it is heard."""
        for scheme in schemes:
            live = scheme.nets["teacher"] if "teacher" in scheme.active else None
            if isinstance(live, Frozen):
                assert isinstance(live.net, Tapped)
                once = self.teachers.setdefault(live.net.net, Once(live))
                once.listen(live.net.spots)
                scheme.nets["teacher"] = once


def counted(steps: Generator[Position, None, R], *before: int) -> Generator[Place, None, R]:
    """A trial's steps as places among the turns; ``before`` are what comes before the number of steps."""
    try:
        while True:
            yield *before, next(steps).total_steps
    except StopIteration as end:
        return end.value
    finally:
        steps.close()


def side_by_side(trials: Mapping[str, Generator[Place, None, R]], turns: Turns) -> list[R]:
    """Take a step of each trial in turn to the end of all; what they return, in order.

    Whoever is least far is next: trials that go on from checkpoints of different steps meet again. Each trial finds random states
    and number of threads as it left them.

    Raises:
        InterruptedRun: when they are to stop, or one of them was interrupted; every trial has saved its state then.
        PotstillError: of a trial, whose name it bears; the others are left as they were saved.
    """
    returned: dict[str, R] = {}
    places: dict[str, Place] = dict.fromkeys(trials, ())
    latest: Place = ()
    stopped = None
    begun = _state()
    states = dict.fromkeys(trials, begun)
    try:
        while places:
            name = min(places, key=places.__getitem__)
            if places[name] > latest:
                latest = places[name]
                turns.turn()
            _put(states[name])
            try:
                places[name] = next(trials[name])
                states[name] = _state()
            except StopIteration as end:
                returned[name] = end.value
                del places[name]
            except InterruptedRun as error:
                stopped, turns.stopping = error, True
                del places[name]
            except PotstillError as error:
                error.where = error.where or name
                raise
    finally:
        for trial in trials.values():
            trial.close()
        torch.set_num_threads(begun[0])
    if stopped is not None:
        raise stopped
    return [returned[name] for name in trials]


class Chorus:
    """The console of several students: one bar for all, and every line says whose it is."""

    def __init__(self, console: Console, title: str) -> None:
        self.console, self.title, self.begun = console, title, False

    def voice(self, who: str) -> Console:
        """The console of one of them."""
        return Voice(self, who)

    def __enter__(self) -> Chorus:
        return self

    def __exit__(self, *_: object) -> None:
        self.console.end()


class Voice(Console):
    """The console of one student of several."""

    def __init__(self, chorus: Chorus, who: str) -> None:
        self.chorus, self.whole, self.who = chorus, chorus.console, who
        self.rich, self.verbose = self.whole.rich, self.whole.verbose

    def say(self, text: str = "") -> None:
        self.whole.say(f"  {self.who}: {text.strip()}")

    def begin(self, title: str, epochs: int) -> None:
        if not self.chorus.begun:
            self.chorus.begun = True
            self.whole.begin(self.chorus.title, epochs)

    def step(self, epoch: int, step: int, steps: int) -> None:
        self.whole.step(epoch, step, steps)

    def epoch(self, row: Mapping[str, Any], who: str = "") -> None:
        self.whole.epoch(row, self.who)

    def end(self) -> None:
        """Nothing: the others may go on."""


def _versions(batch: Batch) -> list[int]:
    """How often the tensors of a batch were changed in place."""
    return [field._version for field in batch if isinstance(field, Tensor)]


def _state() -> tuple[Any, ...]:
    """The number of threads and the state of every global random generator, as it comes: quicker than what checkpoints hold."""
    device = torch.cuda.get_rng_state() if torch.cuda.is_available() else None
    return torch.get_num_threads(), torch.get_rng_state(), device, np.random.get_state(), random.getstate()


def _put(state: tuple[Any, ...]) -> None:
    """Put them back."""
    if state[0] != torch.get_num_threads():
        torch.set_num_threads(state[0])
    torch.set_rng_state(state[1])
    if state[2] is not None:
        torch.cuda.set_rng_state(state[2])
    np.random.set_state(state[3])
    random.setstate(state[4])
