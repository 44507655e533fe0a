"""Who works on a sweep beside its lead: processes of this machine, or tasks on a Ray cluster."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from contextlib import ExitStack
from typing import Any, Literal

import torch

from potstill.clusters import Place, common, connected, words
from potstill.console import Console
from potstill.errors import MachineError, PotstillError, first_line
from potstill.search.plan import Plan

POLL = 0.5
"""Seconds between two looks at the workers."""
RETRIES = 3
"""How often Ray begins again a worker whose process or machine died."""
GRACE = 60.0
"""Seconds that a worker has to save its state when it is asked to stop."""


class Processes:
    """Processes of this machine; the lead works too."""

    leads = True

    def __init__(self, plan: Plan, console: Console) -> None:
        self.plan, self.console = plan, console
        self.others: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> Processes:
        return self

    def __exit__(self, *_: object) -> None:
        """Ask the workers that are left to stop; they save their state."""
        for other in self.others:
            other.terminate()
        for other in self.others:
            other.wait()

    def hire(self) -> None:
        """Start the other workers: the same plan in processes of their own."""
        threads = max(1, (os.cpu_count() or 1) // self.plan.workers)
        if self.plan.workers > 1:
            torch.set_num_threads(min(torch.get_num_threads(), threads))
        for i in range(1, self.plan.workers):
            with open(self.plan.folder / ".workers" / f"{i}.log", "wb") as log:
                other = subprocess.Popen(
                    [sys.executable, "-m", "potstill.search.worker"],
                    stdin=subprocess.PIPE,
                    stdout=log,
                    stderr=log,
                    env={**os.environ, "OMP_NUM_THREADS": str(threads)},
                )
            self.others.append(other)
            assert other.stdin is not None
            other.stdin.write(json.dumps(self.plan.shared()).encode())
            other.stdin.close()

    def busy(self) -> bool:
        """Whether one is still at work; says how those ended that ended badly."""
        if any(other.poll() is None for other in self.others):
            return True
        for i, other in enumerate(self.others, 1):
            if other.returncode:
                log = self.plan.folder / ".workers" / f"{i}.log"
                self.console.say(f"  a worker ended with code {other.returncode}: {log}")
        self.others = []
        return False


class Tasks:
    """Tasks on a Ray cluster; the lead only watches. A task whose machine dies is begun again by Ray, elsewhere."""

    leads = False

    def __init__(self, plan: Plan, console: Console) -> None:
        self.plan, self.console = plan, console
        self.stack = ExitStack()
        self.running: list[Any] = []
        self.wrong: PotstillError | None = None

    def __enter__(self) -> Tasks:
        config = self.plan.config
        self.cluster = self.stack.enter_context(connected(config.ray))
        self.need = self.cluster.needs(config.ray.resources, config.device)
        return self

    def __exit__(self, *_: object) -> None:
        """Ask those that are left to stop; they save their state."""
        ray = self.cluster.ray
        with self.stack:
            for ref in self.running:
                ray.cancel(ref)
            if self.running:
                ray.wait(self.running, num_returns=len(self.running), timeout=GRACE)

    def gather(self) -> None:
        """Prepare the common folder."""
        self.place = self.stack.enter_context(common(self.plan.folder))

    def teach(self) -> None:
        """Let a worker teach the teacher, and wait for it.

        Raises:
            PotstillError: it could not.
        """
        self._begin("teach")
        while self.busy():
            time.sleep(POLL)
        if self.wrong:
            raise self.wrong

    def hire(self) -> None:
        """Start the workers."""
        n, room = self.plan.workers, self.cluster.room(self.need)
        waiting = f"; room for {room}: the others wait for machines" if room < n else ""
        self.console.say(f" cluster  Ray, {self.cluster}: {n} workers with {words(self.need)} each{waiting}")
        for _ in range(n):
            self._begin("work")

    def busy(self) -> bool:
        """Whether one is at work, or waits for its turn; says how those ended that ended badly."""
        if not self.running:
            return False
        ray = self.cluster.ray
        ended, self.running = ray.wait(self.running, num_returns=len(self.running), timeout=0)
        for ref in ended:
            try:
                error = ray.get(ref)
            except Exception as died:
                error = MachineError(
                    f"the process of a worker died: {first_line(died)}",
                    hint="the same command goes on; ray status, ray logs",
                )
            if error is not None:
                self.wrong = error
                self.console.say(f"  a worker ended: {error.what}")
        return bool(self.running)

    def _begin(self, what: Literal["teach", "work"]) -> None:
        rest = {k: v for k, v in self.need.items() if k not in ("CPU", "GPU", "memory")}
        task = self.cluster.ray.remote(labour).options(
            num_cpus=self.need["CPU"],
            num_gpus=self.need.get("GPU", 0),
            memory=int(self.need.get("memory", 0)) or None,
            resources=rest or None,
            max_retries=RETRIES,
            scheduling_strategy="SPREAD",
        )
        self.running.append(task.remote(self.place, self.plan.shared(), what))


def labour(place: Place, plan: dict[str, Any], what: Literal["teach", "work"]) -> PotstillError | None:
    """What a task does: trials until none is left, or the teaching of the teacher. The fault that ended it."""
    from potstill.search.job import Work, run_sweep

    quiet = Console(quiet=True)
    try:
        place.enter()
        if what == "teach":
            Work(Plan(**plan), quiet).taught()
        else:
            run_sweep(Plan(**plan), quiet, lead=False)
    except PotstillError as error:
        return error
    return None
