"""One run over the processes of a Ray cluster: Ray Train starts them, and begins again when one dies."""

from __future__ import annotations

import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from filelock import FileLock, Timeout
from rich.console import Console as Rich

from potstill.clusters import Cluster, Place, common, connected, words
from potstill.config.schema import Config
from potstill.console import Console
from potstill.errors import ConfigError, InterruptedRun, MachineError, PotstillError
from potstill.models.resolve import load_student
from potstill.ready import Objects
from potstill.runs import RunFolder, command_line, free
from potstill.trial import Stop

if TYPE_CHECKING:
    from potstill.run import RunResult

POLL = 0.5
"""Seconds between two looks at what the first process says."""
LEASE = 120.0
"""Seconds after which the lock of a dead process is given back, by network file systems at the latest."""


def alone(config: Config) -> Config:
    """A configuration as one process of this machine can look at it, where those of a cluster will train."""
    update: dict[str, Any] = {"launcher": None, "devices": 1, "nodes": 1}
    if not torch.cuda.is_available() and (config.device == "cuda" or config.precision == "16"):
        update |= {"device": "cpu", "precision": "auto"}
    return config.model_copy(update=update)


def spread(
    config: Config,
    objects: Objects | None,
    console: Console,
    *,
    home: Path,
    going_on: bool = False,
    command: list[str] | None = None,
    user: str = "",
    allow_change: bool = False,
) -> RunResult:
    """Run on a Ray cluster what ``run.distill``, ``run.train`` and ``run.resume`` run here; the same run directory comes out.

    Args:
        home: the run directory; one that is to be made gets another number where it is taken.
        going_on: whether it is that of a run to go on with.

    Raises:
        PotstillError: of the class of what is wrong, here or in a process.
    """
    from potstill.run import RunResult

    if objects and any(o is not None for o in vars(objects).values()):
        raise ConfigError(
            "launcher=ray: other processes cannot have the objects of this one",
            hint="nets and data by name, or potstill.distill(...) in the training function of a TorchTrainer of yours",
        )
    with connected(config.ray) as cluster:
        need = cluster.needs(config.ray.resources, config.device)
        processes, room = config.devices * config.nodes, cluster.room(need)
        if cluster.own and room < processes:
            raise MachineError(
                f"{processes} processes with {words(need)} each, but this machine has room for {room}",
                hint=f"devices={room}, or ray.address=HOST:PORT",
            )
        waiting = "" if room >= processes else f"; room for {room}: it begins when machines have come"
        console.say(f" cluster  Ray, {cluster}: {processes} processes with {words(need)} each{waiting}")
        made = home if going_on else free(home)
        if made != home:
            console.say(f" note     {home} is there already and is left as it is: this run is {made}")
        with common(made.parent) as place:
            heard, stop = Path(f"{place.mark}.said"), Path(f"{place.mark}.stop")
            task = {
                "place": place,
                "home": str(made),
                "config": config.model_copy(update={"out": str(made.parent), "name": made.name}),
                "start": {"command": command or command_line(), "user": user},
                "resume": {"allow_change": allow_change},
                "verbose": console.verbose,
                "heard": str(heard),
                "stop": str(stop),
            }
            try:
                with _relayed(heard, console):
                    _fit(cluster, task, need, config, console)
            finally:
                for path in (heard, stop):
                    path.unlink(missing_ok=True)
                if made.is_dir() and not any(made.iterdir()):
                    made.rmdir()
    facts = RunFolder.open(made).facts
    return RunResult(made, facts, load_student(made, trust_code=True))  # its code was named for this very run


def _fit(cluster: Cluster, task: dict[str, Any], need: dict[str, float], config: Config, console: Console) -> None:
    """Let Ray Train run :func:`loop`, again where a process died, from the last checkpoint."""
    from ray.train import RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    home = Path(task["home"])
    stop = Path(task["stop"])
    books = home.parent / f".{home.name}.ray"
    scale = ScalingConfig(
        num_workers=config.devices * config.nodes,
        use_gpu=bool(need.get("GPU")),
        resources_per_worker=need,
        placement_strategy="SPREAD" if config.devices == 1 else "PACK",
    )
    try:
        for left in reversed(range(config.ray.failures + 1)):
            kept = RunConfig(name=books.name, storage_path=str(books.parent.absolute()))
            try:
                _beside(
                    TorchTrainer(loop, train_loop_config=task, scaling_config=scale, run_config=kept).fit, stop, console
                )
                return
            except KeyboardInterrupt:
                raise InterruptedRun(f"stopped at once: {home}", hint=f"potstill resume {home}") from None
            except cluster.ray.exceptions.RayError as error:
                died: Exception = error
            except Exception as error:
                if type(error).__module__.partition(".")[0] != "ray":
                    raise
                died = error
            faults = getattr(died, "worker_failures", {}).values()
            if fault := next((f for f in faults if isinstance(f, PotstillError)), None):
                raise fault from None  # another try would not mend it
            if stop.exists():
                raise InterruptedRun(f"interrupted: {home}", hint=f"potstill resume {home}") from None
            if not left:
                raise MachineError(
                    f"a process died, and the run was begun {config.ray.failures + 1} times: {_reason(died)}",
                    hint=f"potstill resume {home}, ray.failures=N, or {home / 'log.txt'}",
                ) from died
            console.say(f"  a process died ({_reason(died)}): begun again from the last checkpoint")
    finally:
        shutil.rmtree(books, ignore_errors=True)


def loop(task: dict[str, Any]) -> None:
    """What each process does: the run, begun or gone on with."""
    place: Place = task["place"]
    place.enter()
    from potstill import run

    home, lead = Path(task["home"]), dist.get_rank() == 0
    told = [_begun(home) if lead else None]
    dist.broadcast_object_list(told)
    console = Console(quiet=not lead, verbose=task["verbose"])
    threading.Thread(target=_stop_where, args=(Path(task["stop"]),), daemon=True).start()
    with open(task["heard"] if lead else os.devnull, "a", encoding="utf-8") as file:
        console.rich = Rich(file=file, highlight=False, quiet=not lead, soft_wrap=True)
        if told[0]:
            run.resume(home, console=console, **task["resume"])
        else:
            start: Callable[..., Any] = run.distill if task["config"].kind == "distill" else run.train
            start(task["config"], console=console, **task["start"])


def _begun(home: Path) -> bool:
    """Whether there is a run to go on with; one that died before it was one is cleared away."""
    if not (home / "config.yaml").exists() or not (home / "run.json").exists():
        for path in home.iterdir():
            path.unlink()
        return False
    try:
        with FileLock(home / ".lock").acquire(timeout=LEASE):  # the process before has died, or is about to
            return True
    except Timeout:
        raise MachineError(f"{home} is still being written by another process", hint="stop it, or wait") from None


@contextmanager
def _relayed(heard: Path, console: Console) -> Iterator[None]:
    """Say here what the first process writes to a file."""
    over = threading.Event()

    def relay() -> None:
        at = 0
        while True:
            last = over.is_set()
            if heard.exists():
                with open(heard, "rb") as file:
                    file.seek(at)
                    whole = file.read().rpartition(b"\n")
                at += len(whole[0]) + len(whole[1])
                if whole[1]:
                    console.say(whole[0].decode("utf-8", "replace"))
            if last:
                return
            over.wait(POLL)

    thread = threading.Thread(target=relay, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _beside(work: Callable[[], object], stop: Path, console: Console) -> None:
    """Wait for work in a thread of its own: in the main one Ray would take Ctrl-C for itself, and leave.

    The first Ctrl-C makes the file ``stop``, by which the processes save their state and end.
    """
    came: list[BaseException | None] = []

    def go() -> None:
        try:
            work()
        except BaseException as error:
            came.append(error)
        else:
            came.append(None)

    thread = threading.Thread(target=go, daemon=True)
    thread.start()
    while not came:
        try:
            thread.join(POLL)
        except KeyboardInterrupt:
            if stop.exists():
                raise
            stop.touch()
            console.say("  the processes save their state and stop; Ctrl-C again: at once")
    if came[0] is not None:
        raise came[0]


def _stop_where(stop: Path) -> None:
    """Ask the training of this process to stop once the file is there, and each one that begins after that."""
    while True:
        if stop.exists():
            for training in list(Stop.elsewhere):
                training.asked = True
        time.sleep(POLL)


def _reason(error: BaseException) -> str:
    """The line that says why, of the many that Ray says."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    told = [line for line in lines if "died" in line or "Error" in line]
    return (told or lines or [type(error).__name__])[-1].partition(". ")[0][:200]
