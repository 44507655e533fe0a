"""The job: look at everything, then trial after trial, beside whoever else works on the same folder; and what came out."""

from __future__ import annotations

import shutil
import time
from functools import cached_property
from pathlib import Path
from typing import Any

from filelock import FileLock

from potstill import run
from potstill.compress.recover import kept
from potstill.config.load import dump
from potstill.config.load import resolve as resolve_config
from potstill.config.schema import Config
from potstill.config.sections import ModelConfig
from potstill.console import Console
from potstill.errors import MachineError, PotstillError
from potstill.files import write_atomically
from potstill.meant import untrained
from potstill.runs import RunFolder
from potstill.search import facts
from potstill.search.hire import POLL, Processes, Tasks
from potstill.search.ledger import Ledger, optuna
from potstill.search.many import asked, trained
from potstill.search.page import write
from potstill.search.plan import Plan, recipe
from potstill.search.result import SweepResult
from potstill.search.say import Teller
from potstill.search.space import PRUNE, published
from potstill.spread import alone

IN_A_ROW = 3
"""Trials that fail one after the other before the sweep stops: it is not their settings, then."""
BUILT = ("student.", "teacher.", "losses.", "spots.", "method")
"""Where another choice means other nets or losses: each is built before the first trial."""


def run_sweep(plan: Plan, console: Console, lead: bool = True) -> SweepResult:
    """Run the trials that are not done yet.

    Args:
        lead: whether this process looks at everything first, starts the others and says what came out.

    Raises:
        PotstillError: of the class of what is wrong.
    """
    optuna()  # missed before anything is loaded
    return Work(plan, console).go(lead)


class Work:
    """One process at work on a sweep."""

    def __init__(self, plan: Plan, console: Console) -> None:
        self.plan, self.console, self.folder = plan, console, plan.folder
        self.teacher: str | None = None
        self.first: dict[str, Any] = {}

    @cached_property
    def teller(self) -> Teller:
        return Teller(self.plan, self.ledger, self.console)

    @cached_property
    def ledger(self) -> Ledger:
        config = self.plan.config
        costs = [self.plan.second] if self.plan.second else []
        return Ledger(self.folder, self.plan.dimensions, costs, config.seed, max(1, config.epochs // 5), self.plan.stop)

    def go(self, lead: bool) -> SweepResult:
        self.first = published(self.plan.dimensions, self.plan.base.config)  # reads, and checks, the plan
        with self.crew:
            if lead:
                looked = self._check(self.plan.config)  # before anything is written
                self.teller.lines(looked)
            with self.ledger.working():
                self.ledger.begin(self.plan.made)
                if isinstance(self.crew, Tasks):
                    self.crew.gather()
                self.teacher = self.taught()
                if lead:
                    self._look()
                    self.teller.announce()
                    self.crew.hire()
                if self.crew.leads:
                    self._work()
                while self._waiting():
                    if isinstance(self.crew, Tasks):
                        raise self.crew.wrong or MachineError("every worker has ended", hint="the same again")
                    self._work()  # what a worker that died has left
        found = self._write()
        if lead:
            self._recipes(found)
            self.teller.conclude(found)
        return SweepResult(self.folder, found)

    @cached_property
    def crew(self) -> Processes | Tasks:
        return (Tasks if self.plan.launcher else Processes)(self.plan, self.console)

    def _check(self, config: Config) -> list[str]:
        """The preflight; where the workers are elsewhere, as far as this machine can look."""
        return run.check(config if self.crew.leads else alone(config), self.plan.objects)

    def taught(self) -> str | None:
        """The directory of the teacher, where it has no weights and is taught first: once, for all trials."""
        config = self.plan.base.config
        varied = any(d.key.startswith("teacher.") for d in self.plan.dimensions)
        if config.kind != "distill" or config.teacher is None or self.plan.objects.teacher is not None or varied:
            return None
        if not untrained(config.teacher):
            return None
        home = self.folder / "teacher"
        if isinstance(self.crew, Tasks):
            self.console.say("\n the teacher has no weights: a worker teaches it once, for all trials")
            self.crew.teach()
        with FileLock(self.folder / ".teacher.lock"):
            own = self._teaching()
            if not self.ledger.trials() and _text(home / "config.yaml") not in ("", dump(own)):
                shutil.rmtree(home)  # that of an attempt with other settings
            if not (home / "run.json").exists():
                self.console.say("\n the teacher has no weights: it is taught once, for all trials")
                run.train(own, self._data_only(), console=self.inner())
            elif RunFolder.open(home).facts["status"] != "done":
                run.resume(home, objects=self._data_only(), console=self.inner())
        return str(home)

    def _teaching(self) -> Config:
        """How the teacher is taught: as in a run of the configuration."""
        config = self.plan.base.config
        assert config.teacher is not None
        net = config.teacher.model_dump(mode="json", include={*ModelConfig.model_fields}, exclude_defaults=True)
        flags = {**kept(config), **{f"student.{key}": value for key, value in net.items()}}
        flags |= {
            "epochs": config.teacher.epochs or config.epochs,
            "track": [],
            "out": str(self.folder),
            "name": "teacher",
        }
        return resolve_config([], [], flags, "train").config

    def _data_only(self) -> run.Objects | None:
        data = self.plan.objects.data
        return run.Objects(data=data) if data is not None else None

    def _look(self) -> None:
        """Build what the choices name, before hours are spent."""
        if self.ledger.trials():
            return
        if self.teacher:
            self.teller.lines(self._check(self.config({}))[-3:])
        for d in self.plan.dimensions:
            for value in d.ends() if d.choices and d.key.startswith(BUILT) else ():
                try:
                    self._check(self.config({d.key: value}))
                except PotstillError as error:
                    error.where = f"--over {d.key}={value}" + (f", {error.where}" if error.where else "")
                    raise

    def config(self, values: dict[str, Any]) -> Config:
        """The configuration of a trial, but for its folder."""
        config = self.plan.resolved(values)
        if self.teacher:
            assert config.teacher is not None
            known: dict[str, Any] = {"model": self.teacher, "kwargs": {}, "epochs": None}
            config = config.model_copy(update={"teacher": config.teacher.model_copy(update=known)})
        return config

    def _work(self) -> None:
        """Trials, until there are as many as were wanted."""
        wrong = 0
        for trials in asked(self):
            for error in trained(trials, self):
                wrong = wrong + 1 if error else 0
                if error and wrong == IN_A_ROW:
                    error.why = f"{wrong} trials failed in a row, the last one by this" + (
                        f"; {error.why}" if error.why else ""
                    )
                    raise error

    def over(self) -> None:
        """A trial is over."""
        self._write()
        self.teller.news()

    def inner(self) -> Console:
        """What the trials themselves say: nothing, or everything."""
        return self.console if self.console.verbose else Console(quiet=True)

    def _waiting(self) -> bool:
        """Wait for the other workers; whether trials are left although all have gone."""
        while self.crew.busy():
            time.sleep(POLL)
            self.teller.news()
            if not self.crew.leads and not self.ledger.lacks(self.plan.trials) and not self.ledger.running():
                return False  # who still waits for a machine is not needed
        return self.ledger.lacks(self.plan.trials)

    def _write(self) -> dict[str, Any]:
        """``sweep.json`` and ``sweep.html`` as things stand."""
        with self.ledger.lock:
            found = facts.collect(self.ledger, self.plan.about)
            write(self.folder, found)
        return found

    def _recipes(self, found: dict[str, Any]) -> None:
        """The settings of the best trial, or of those on the front, as configurations to go on with."""
        own = self.plan.base.config
        for row in found["trials"]:
            if row["number"] in (found["front"] or [found["best"]]):
                values = {k: v for k, v in row["settings"].items() if k != PRUNE}
                update = {"out": own.out, "name": None, "control": own.control, "track": own.track}
                config = self.config(values).model_copy(update=update)
                write_atomically(self.folder / recipe(row), dump(config).encode())


def _text(path: Path) -> str:
    return path.read_text("utf-8") if path.is_file() else ""


__all__ = ["SweepResult", "run_sweep"]
