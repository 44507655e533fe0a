"""The jobs: train, distill, resume, evaluate, check, demo, inspect. What the commands and Python callers call."""

from __future__ import annotations

import functools
import os
import time
import traceback
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from potstill._version import __version__
from potstill.adopt import adopt
from potstill.card import card
from potstill.config.load import dump
from potstill.config.schema import Config
from potstill.console import Console
from potstill.control import control
from potstill.convoy import Convoy, Part
from potstill.deliver import Delivery
from potstill.engine import whole
from potstill.errors import ConfigError, InterruptedRun, PotstillError
from potstill.files import write_atomically
from potstill.machines import first, gone_on, met
from potstill.meant import ALONE, losses_of
from potstill.methods.build import Built
from potstill.models.net import Net
from potstill.models.resolve import resolve
from potstill.models.weights import load_weights
from potstill.outcome import data_facts, finish, say_results
from potstill.pace import read, written
from potstill.prepare import prepare
from potstill.ready import Objects, Ready
from potstill.rehearse import rehearse
from potstill.report import report
from potstill.runs import Follower, RunFolder, auto_name, command_line, environment, git_state, now
from potstill.spread import alone, spread
from potstill.together import Chorus, Group, Place, Turns, counted, side_by_side
from potstill.trial import Stop, run_trial, save_logits, trial_by_step

OnEpoch = Callable[[int, dict[str, Any]], None]


@dataclass
class RunResult:
    """A finished run.

    Attributes:
        path: its directory.
        facts: what run.json says.
        net: the student of the seed that is best on the validation data, with its normalisation and classes.
        lead: whether this process is the one that tells; others only trained along.
    """

    path: Path
    facts: dict[str, Any] = field(repr=False)
    net: Net
    lead: bool = True

    @property
    def results(self) -> dict[str, Any]:
        """Student, control, teacher and their difference; see docs/design.md."""
        return dict(self.facts["results"])

    @property
    def student(self) -> nn.Module:
        """The trained student: the plain module, in eval mode. It wants normalised pictures: ``net.preprocess``."""
        return self.net.module.eval()


def distill(
    config: Config,
    objects: Objects | None = None,
    *,
    command: list[str] | None = None,
    user: str = "",
    console: Console | None = None,
    on_epoch: OnEpoch | None = None,
) -> RunResult:
    """Distil a teacher into a student, beside the same student alone at the same budget, and report.

    Args:
        on_epoch: told the seed and the line of the journal after each epoch of a student; what it raises ends the run.
    """
    return begin(config, objects, command=command, user=user, console=console, on_epoch=on_epoch)


def train(
    config: Config,
    objects: Objects | None = None,
    *,
    command: list[str] | None = None,
    user: str = "",
    console: Console | None = None,
    on_epoch: OnEpoch | None = None,
) -> RunResult:
    """Train a net on the labels: a teacher, or any. ``on_epoch`` as in :func:`distill`."""
    return begin(config, objects, command=command, user=user, console=console, on_epoch=on_epoch)


def check(config: Config, objects: Objects | None = None, console: Console | None = None) -> list[str]:
    """All that can be known before the first epoch; nothing is written.

    Returns:
        the lines of the preflight; none in processes other than the first.
    """
    ready = look(config, objects)
    return ready.lines if ready.fabric.is_global_zero else []


def look(config: Config, objects: Objects | None = None) -> Ready:
    """What :func:`check` looks at."""
    ready = prepare(alone(config) if config.launcher and not met() else config, objects)
    rehearse(ready)
    return ready


def begin_by_step(
    config: Config,
    objects: Objects | None = None,
    *,
    command: list[str] | None = None,
    user: str = "",
    console: Console | None = None,
    on_epoch: OnEpoch | None = None,
    convoy: Convoy | None = None,
) -> Generator[Place, None, RunResult]:
    """Start a run; ``begin_by_step`` yields after each step of a student in a convoy, ``begin`` does not.

    Args:
        convoy: the runs that are trained side by side with this one.
    """
    console = console or Console()
    path = Path(config.out) / (
        config.name
        or auto_name(
            config.label if config.kind == "distill" else "train",
            _short(config.student.model),
            _short(config.data.source),
        )
    )
    if config.name == "":
        path = Path(config.out)
    if config.launcher and not met():
        return spread(config, objects, console, home=path, command=command, user=user)
    ready = prepare(config, objects)
    console = console if ready.fabric.is_global_zero else Console(quiet=True)
    built, part = yield from _rehearsed(ready, console, convoy)
    facts = {
        "kind": config.kind,
        "command": command or command_line(),
        "method": config.label if config.kind == "distill" else "train",
        "seeds": list(range(config.seed, config.seed + config.seeds)),
        "resumable": not (objects and any((objects.teacher, objects.student, objects.data))),
    }
    if ready.fabric.is_global_zero:
        folder = RunFolder.new(path, facts)
        write_atomically(folder.path / "config.yaml", dump(config).encode())
        write_atomically(folder.path / "user.yaml", (user or "{}\n").encode())
        ready.fabric.broadcast(str(folder.path))
        if folder.path != path:
            console.say(f" note     {path} is there already and is left as it is: this run is {folder.path}")
    else:
        folder = Follower(Path(ready.fabric.broadcast("")), dict(facts))
    return (yield from _go(folder, ready, built, console, on_epoch, part))


def resume_by_step(
    path: str | Path,
    *,
    epochs: int | None = None,
    allow_change: bool = False,
    objects: Objects | None = None,
    console: Console | None = None,
    on_epoch: OnEpoch | None = None,
    convoy: Convoy | None = None,
) -> Generator[Place, None, RunResult]:
    """Go on with an interrupted run, exactly as if it had never stopped.

    Args:
        epochs: ignored unless it is what the run was started with: the schedule of the learning rate depends on it.
        allow_change: go on although the data or the teacher changed.
        on_epoch: as in :func:`distill`; not told of the epochs that were done before.
        convoy: as in :func:`begin_by_step`.

    Raises:
        ConfigError: the run is done, is being written, or something changed since.
    """
    from potstill.config.load import resolve as resolve_config

    console = console or Console()
    folder = RunFolder.open(path)
    if folder.facts["status"] == "done":
        raise ConfigError(f"{folder.path} is done", hint=f"potstill report {folder.path}")
    if first():
        with folder.lock():
            pass  # a run that is being written says so before anything is loaded
    if not folder.facts["resumable"] and objects is None:
        raise ConfigError(
            f"{folder.path} was started from Python with objects: the command line cannot make them again",
            hint="potstill.resume(path, teacher=..., student=..., data=...)",
        )
    config = gone_on(resolve_config([str(folder.path / "config.yaml")], [], {}).config)
    if epochs is not None and epochs != config.epochs:
        raise ConfigError(
            f"epochs: the run was started with {config.epochs}, got {epochs}",
            why="the schedule of the learning rate depends on it, so the run could not go on exactly",
            hint=f"potstill resume {folder.path} to finish it; a run of {epochs} epochs is a new one: "
            f"potstill {config.kind} {folder.path}/config.yaml epochs={epochs}",
        )
    if config.launcher and not met():
        return spread(config, objects, console, home=folder.path, going_on=True, allow_change=allow_change)
    ready = prepare(config, objects)
    changed = {
        what: (before, after)
        for what, before, after in (
            ("data", folder.facts.get("data", {}).get("fingerprint"), ready.splits.fingerprint),
            (
                "teacher",
                (folder.facts.get("teacher") or {}).get("sha256"),
                ready.teacher.sha256 if ready.teacher else None,
            ),
            ("potstill", folder.facts.get("potstill"), __version__),
        )
        if before and after and before != after
    }
    if changed and not allow_change:
        table = "; ".join(f"{what}: {str(a)[:12]} -> {str(b)[:12]}" for what, (a, b) in changed.items())
        raise ConfigError(f"changed since the run was started: {table}", hint="--allow-change, or start a new run")
    console = console if ready.fabric.is_global_zero else Console(quiet=True)
    ready.paced = read(folder.facts.get("speed", []))
    built, part = yield from _rehearsed(ready, console, convoy, folder.facts.get("threads"))
    console.say(f" resuming {folder.path}")
    if not ready.fabric.is_global_zero:
        folder = Follower(folder.path, folder.facts)
    folder.update(status="running", pid=os.getpid())
    return (yield from _go(folder, ready, built, console, on_epoch, part))


begin, resume = whole(begin_by_step), whole(resume_by_step)


def _rehearsed(
    ready: Ready, console: Console, convoy: Convoy | None, threads: int | None = None
) -> Generator[Place, None, tuple[Built, Part | None]]:
    """The rehearsal of a run, and its part in a convoy once that has its turn."""
    if convoy is not None:
        convoy.meet(ready)
    built, part = rehearse(ready, threads=threads), None
    for line in ready.lines:
        console.say(f" {line}")
    if convoy is not None:
        part = convoy.enter(ready, built)
        yield (part.number,)
        convoy.begin()
    return built, part


@contextmanager
def _recorded(folder: RunFolder, console: Console) -> Iterator[None]:
    """Whatever happens in the block is said in run.json and log.txt."""
    began, earlier = time.monotonic(), float(folder.facts.get("seconds", 0.0))

    def close(status: str, code: int) -> None:
        seconds = round(earlier + time.monotonic() - began, 1)
        folder.update(status=status, exit_code=code, finished=now(), seconds=seconds)

    try:
        yield
    except (InterruptedRun, KeyboardInterrupt, GeneratorExit) as error:
        folder.log(f"{now()} {str(error) or 'interrupted'}")
        close("interrupted", 130)
        if isinstance(error, InterruptedRun):
            error.hint = f"potstill resume {folder.path}"
        raise
    except BaseException as error:
        ours = (
            isinstance(error, PotstillError) and error.__cause__ is None
        )  # then its words are all that there is to know
        folder.log(f"{now()} {type(error).__name__}: {error}" if ours else traceback.format_exc())
        close("failed", error.exit_code if isinstance(error, PotstillError) else 1)
        raise
    close("done", 0)


def _go(
    folder: RunFolder, ready: Ready, built: Built, console: Console, on_epoch: OnEpoch | None, part: Part | None
) -> Generator[Place, None, RunResult]:
    config = ready.config
    console.say(f" run      {folder.path}")
    own = Stop()
    stop = part.turns.asked if part else own
    with folder.lock(), _recorded(folder, console), nullcontext() if part else own.listening():
        folder.update(environment=environment(str(ready.fabric.device)), git=git_state(), data=data_facts(ready))
        folder.update(threads=torch.get_num_threads())
        if config.kind == "distill" and ready.teacher is None:
            said = len(ready.lines)
            _teach(folder, ready, console, stop)
            built = rehearse(ready, threads=torch.get_num_threads())
            for line in ready.lines[said:]:
                console.say(f" {line}")
        steps = len(ready.stream(config.seed))
        plain = ready.student(config.seed)
        delivered = Delivery(plain, built).net
        folder.update(
            teacher=card(ready.teacher, ready) if ready.teacher else None,
            student=card(delivered, ready),
            control=card(plain, ready) if delivered is not plain else None,
            losses=built.rows,
            budget={"epochs": config.epochs, "steps": steps * config.epochs, "batch": config.data.batch},
            preflight=ready.lines,
            speed=written(ready),
        )
        lead = ready.fabric.is_global_zero
        if ready.teacher is not None and lead:
            save_logits(
                folder.path / "teacher.logits.safetensors", ready.teacher_logits["test"], ready.splits.test.labels
            )
        trials: dict[str, list[dict[str, Any]]] = {"student": [], "control": []}
        seeds, n = folder.facts["seeds"], ready.at_once
        for i in range(0, len(seeds), n):
            some = seeds[i : i + n]
            students = yield from _students(folder, ready, some, console, stop, on_epoch, part)
            for seed, student in zip(some, students, strict=True):
                trials["student"].append(student)
                if config.control and config.kind == "distill":
                    trials["control"].append(control(folder, ready, seed, student["epochs"], console, stop))
                if lead:
                    finish(folder, ready, trials)
    if lead:
        report([folder.path])
        say_results(folder, console)
    ready.fabric.barrier()
    folder = RunFolder.open(folder.path)
    net = Delivery(ready.student(folder.facts["best_seed"]), built).net
    load_weights(net.module, folder.path / "student.safetensors")
    net.classes = list(ready.splits.classes)
    return RunResult(folder.path, folder.facts, net, lead)


def _students(
    folder: RunFolder,
    ready: Ready,
    seeds: list[int],
    console: Console,
    stop: Callable[[], bool],
    on_epoch: OnEpoch | None,
    part: Part | None,
) -> Generator[Place, None, list[dict[str, Any]]]:
    """Train the students of some seeds; several side by side, or one beside those of other runs."""
    config, first = ready.config, seeds[0]
    turns = part.turns if part else Turns(stop, config.save_every)
    group = part.group(ready, first) if part else Group(ready.stream(first), turns) if len(seeds) > 1 else None
    told = Chorus(console, f"students side by side, seeds {', '.join(map(str, seeds))}")
    place = (part.number, folder.facts["seeds"].index(first)) if part else ()
    trials = {
        f"student-s{seed}": counted(
            trial_by_step(
                ready,
                "student",
                seed,
                folder.path / f"student-s{seed}",
                net=ready.student,
                losses=losses_of(config) if config.kind == "distill" else _labels_only(config),
                teacher=ready.teacher,
                console=told.voice(f"s{seed}") if len(seeds) > 1 else console,
                stop=turns.stop if group or part else stop,
                on_epoch=functools.partial(on_epoch, seed) if on_epoch else None,
                group=group,
            ),
            *place,
        )
        for seed in seeds
    }
    if len(seeds) == 1:
        return [(yield from trials[f"student-s{first}"])]
    with told:
        return side_by_side(trials, turns)


def _labels_only(config: Config) -> dict[str, dict[str, Any]]:
    """Cross-entropy alone, with the smoothing that the configuration may give it."""
    return {name: loss for name, loss in losses_of(config).items() if loss["use"] == "ce"} or ALONE


def _teach(folder: RunFolder, ready: Ready, console: Console, stop: Callable[[], bool]) -> None:
    """Train the teacher that has no weights yet; its best epoch becomes the teacher of the run."""
    config = ready.config
    assert config.teacher is not None
    home = folder.path / f"teacher-s{config.seed}"
    run_trial(
        ready,
        "teacher",
        config.seed,
        home,
        net=ready.fresh_teacher,
        losses=ALONE,
        teacher=None,
        console=console,
        stop=stop,
        epochs=config.teacher.epochs,
    )
    adopt(ready, resolve(str(home), trust_code=True), config.teacher.epochs or config.epochs)


def _short(spec: str) -> str:
    return spec.rstrip("/").replace("\\", "/").rsplit("/", 1)[-1].split(":")[-1].split("(")[0]
