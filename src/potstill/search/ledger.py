"""The trials of a sweep on disk, as Optuna keeps them: asked for and told by any number of processes, killed or not."""

from __future__ import annotations

import itertools
import math
import os
import random
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from potstill.errors import ConfigError, MachineError
from potstill.extras import optional
from potstill.search.space import Dimension

JOURNAL = "journal.log"
LIVES = 3
"""How often a trial may die (be killed, run out of memory) before it is given up."""
STARTUP = 5
"""Finished trials before the worse half of the others is stopped early."""
SEED_STEP = 1_000_003


def optuna() -> Any:
    """Optuna, silent but for errors.

    Raises:
        MachineError: it is not installed: names the extra that brings it.
    """
    package = optional("optuna", "sweep", what="a sweep")
    package.logging.set_verbosity(package.logging.ERROR)
    return package


class Ledger:
    """The trials of a sweep, shared by all who work on its folder.

    Every process that works holds a lock of its own, which the system takes back when it ends, however it ends: so a trial
    whose process was killed is known, and is begun again with the same settings, in the same folder.

    Args:
        folder: of the sweep.
        dimensions: what is varied.
        costs: the names of what is to be small, beside the accuracy, which is to be large; at most one.
        seed: what is drawn for a trial follows from it and from the trials before.
        warmup: epochs in which no trial is stopped.
        stop: whether any is, ever.
    """

    def __init__(
        self,
        folder: Path,
        dimensions: Sequence[Dimension],
        costs: Sequence[str] = (),
        seed: int = 0,
        warmup: int = 1,
        stop: bool = True,
    ) -> None:
        self.optuna, self.folder, self.seed = optuna(), folder, seed
        self.dimensions = {d.key: d for d in dimensions}
        self.lock = FileLock(folder / ".lock")
        self.me = uuid.uuid4().hex[:12]
        try:
            (folder / ".workers").mkdir(parents=True, exist_ok=True)
            journal = FileLock(folder / ".journal.lock")
            with journal:
                mend(folder / JOURNAL)
        except OSError as error:
            raise MachineError(f"cannot write {folder}: {error.strerror}", hint="--out FOLDER") from None
        kept = self.optuna.storages.journal
        storage = kept.JournalStorage(kept.JournalFileBackend(str(folder / JOURNAL), journal))
        aims = ["maximize", *("minimize" for _ in costs)]
        known = {"storage": storage, "study_name": "sweep"}
        pruner = self.optuna.pruners.MedianPruner(n_startup_trials=STARTUP, n_warmup_steps=warmup + 1)
        with self.lock:
            self.study = self.optuna.create_study(**known, load_if_exists=True, directions=aims, pruner=pruner)
            if len(self.study.directions) != len(aims) and not self.study.get_trials(deepcopy=False):
                self.optuna.delete_study(**known)
                self.study = self.optuna.create_study(**known, directions=aims, pruner=pruner)
        self.several, self.stop = bool(costs), stop

    def begin(self, made: Mapping[str, Any]) -> None:
        """Write down what is searched, or hold it against what the trials that are there were made of.

        Args:
            made: all that the trials depend on, plain JSON.

        Raises:
            ConfigError: the folder has another sweep.
        """
        with self.lock:
            before = self.study.user_attrs.get("made")
            if not self.study.get_trials(deepcopy=False):
                self.study.set_user_attr("made", dict(made))
            elif before != made:
                other = ", ".join(differing(before, made))
                raise ConfigError(
                    f"{self.folder} has another sweep; what differs: {other}",
                    why="trials of two searches are not compared",
                    hint="--name ANOTHER, or the same settings as before to go on",
                )

    @contextmanager
    def working(self) -> Iterator[None]:
        """Be known to be alive inside the block."""
        mark = self.folder / ".workers" / self.me
        alive = FileLock(mark)
        alive.acquire()
        try:
            yield
        finally:
            alive.release()
            mark.unlink(missing_ok=True)

    def ask(self, wanted: int, first: Mapping[str, Any] | None = None) -> Any | None:
        """The next trial; None where as many as ``wanted`` are finished or at work.

        The very first one has the values of ``first``, as far as they go. Where all is chosen from lists, and every combination
        can have its trial, each comes once before any comes again. ``user_attrs["home"]`` is the name of the trial's folder:
        that of the dead one that it takes the place of.
        """
        with self.lock:
            self._bury()
            if len(self.trials()) >= wanted:
                return None
            known = self.study.get_trials(deepcopy=False)
            if not known and first:
                self.study.enqueue_trial(dict(first))
            elif (choice := self._untried(wanted, known)) is not None:
                self.study.enqueue_trial(choice)
            self.study.sampler = self.optuna.samplers.TPESampler(
                seed=(self.seed + SEED_STEP * len(known)) % 2**32, constant_liar=True
            )
            trial = self.study.ask({key: self._distribution(d) for key, d in self.dimensions.items()})
            trial.set_user_attr("worker", self.me)
            if "home" not in trial.user_attrs:
                trial.set_user_attr("home", f"{trial.number:04d}")
            return trial

    def values(self, trial: Any) -> dict[str, Any]:
        """The settings of a trial by their keys."""
        return {key: self.dimensions[key].value(drawn) for key, drawn in trial.params.items()}

    def tell(self, trial: Any, values: Sequence[float] | None = None, **facts: Any) -> None:
        """A trial is over: with its values, or, without, stopped or failed; ``facts`` are kept with it."""
        for key, value in facts.items():
            trial.set_user_attr(key, value)
        states = self.optuna.trial.TrialState
        self.study.tell(trial, values, states.COMPLETE if values is not None else states.PRUNED)

    def report(self, trial: Any, epoch: int, value: float) -> bool:
        """The accuracy after an epoch; whether the trial had better stop. With two aims nothing is said and none stops."""
        if self.several:
            return False
        trial.report(value, epoch)
        return self.stop and bool(trial.should_prune())

    def trials(self) -> list[Any]:
        """The trials as they stand, without those whose place another took and without those that wait."""
        states = self.optuna.trial.TrialState
        every = self.study.get_trials(deepcopy=False)
        replaced = {t.user_attrs.get("again_of") for t in every}
        return [t for t in every if t.number not in replaced and t.state != states.WAITING]

    def lacks(self, wanted: int) -> bool:
        """Whether a trial is left to be asked for; those of dead processes are."""
        with self.lock:
            self._bury()
            return len(self.trials()) < wanted

    def running(self) -> list[Any]:
        """The trials at work, here or elsewhere."""
        return [t for t in self.trials() if t.state == self.optuna.trial.TrialState.RUNNING]

    def _bury(self) -> None:
        """Trials at work whose process is dead: each has failed, and another takes its place; too often: it stays failed."""
        for trial in self.running():
            if self._alive(trial.user_attrs.get("worker")):
                continue
            self._again(trial, trial.user_attrs.get("lives", LIVES) - 1)

    def put_back(self, trial: Any) -> None:
        """A trial was interrupted, which costs it no life: the next who asks goes on with it."""
        with self.lock:
            self._again(trial, trial.user_attrs.get("lives", LIVES))

    def frail(self, trial: Any) -> bool:
        """Whether it is given up if it dies once more."""
        return bool(trial.user_attrs.get("lives", LIVES) == 1)

    def _again(self, trial: Any, lives: int) -> None:
        """Another trial takes the place of this one, if it has lives left."""
        self.study.tell(trial.number, state=self.optuna.trial.TrialState.FAIL)
        if lives:
            home = trial.user_attrs.get("home", f"{trial.number:04d}")
            self.study.enqueue_trial(trial.params, {"home": home, "lives": lives, "again_of": trial.number})

    def _untried(self, wanted: int, known: Sequence[Any]) -> dict[str, Any] | None:
        """A combination that no trial has, where all is chosen from lists and the trials suffice for all; drawn by the seed.
        None: the sampler draws, or a trial waits to be taken up."""
        labels = [[label for label, _ in d.choices] for d in self.dimensions.values()]
        waiting = self.optuna.trial.TrialState.WAITING
        if not all(labels) or math.prod(map(len, labels)) > wanted or any(t.state == waiting for t in known):
            return None
        tried = {tuple(t.params.get(key) for key in self.dimensions) for t in known}
        left = [choice for choice in itertools.product(*labels) if choice not in tried]
        drawn = random.Random(self.seed + SEED_STEP * len(known))
        return dict(zip(self.dimensions, drawn.choice(left), strict=True)) if left else None

    def _alive(self, worker: str | None) -> bool:
        """Whether that process still holds its lock. Without a name: it died between two lines of :meth:`ask`."""
        if worker is None or worker == self.me:
            return worker == self.me
        mark = self.folder / ".workers" / worker
        if not mark.exists():
            return False
        try:
            with FileLock(mark).acquire(timeout=0):
                pass
        except Timeout:
            return True
        mark.unlink(missing_ok=True)
        return False

    def _distribution(self, d: Dimension) -> Any:
        made = self.optuna.distributions
        if d.choices:
            return made.CategoricalDistribution([label for label, _ in d.choices])
        if d.whole:
            return made.IntDistribution(int(d.low), int(d.high), log=d.log)
        return made.FloatDistribution(d.low, d.high, log=d.log)


def mend(path: Path) -> None:
    """Cut off a last line of the journal that a power cut left unfinished. Its lock is held."""
    if not path.exists():
        return
    content = path.read_bytes()
    if content and not content.endswith(b"\n"):
        os.truncate(path, content.rfind(b"\n") + 1)


def differing(a: Any, b: Any, way: str = "") -> list[str]:
    """The keys at which two trees of plain JSON differ."""
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        keys = dict.fromkeys([*a, *b])
        return [w for key in keys for w in differing(a.get(key), b.get(key), f"{way}.{key}" if way else str(key))]
    return [] if a == b else [way]
