"""Ray clusters: connect to one, ask what it has, and let its workers stand where the command was given. No torch."""

from __future__ import annotations

import os
import socket
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from potstill._version import __version__
from potstill.config.sections import RayConfig
from potstill.errors import ConfigError, MachineError
from potstill.extras import optional

PATIENCE = 5.0
"""Seconds that the head of a cluster may take to answer."""
OTHERS = {"8265": "dashboard", "10001": "client server"}
"""Ports of a cluster that are not its own, and often taken for it."""
UNITS = {"cpu": "CPU", "gpu": "GPU"}


@dataclass(frozen=True)
class Cluster:
    """A cluster that this process is connected to.

    Attributes:
        ray: the package.
        own: whether this process has started it, on this machine alone: then no machine can come to it later.
    """

    ray: Any
    own: bool

    def machines(self) -> list[dict[str, float]]:
        """What each machine that is there has, free or not."""
        return [dict(node["Resources"]) for node in self.ray.nodes() if node["Alive"]]

    def needs(self, wanted: Mapping[str, float], device: str) -> dict[str, float]:
        """What a process takes, by Ray's names; by default a processor, and a GPU where the cluster has any.

        Raises:
            MachineError: no machine has that much, and none can come.
        """
        need = {"CPU": 1.0, **{UNITS.get(name.lower(), name): amount for name, amount in wanted.items()}}
        if "GPU" not in need and device in ("auto", "cuda") and any(m.get("GPU") for m in self.machines()):
            need["GPU"] = 1.0
        if self.own and not self.room(need):
            had = "; ".join(words({name: m[name] for name in need if name in m}) for m in self.machines())
            raise MachineError(
                f"no machine of the cluster has {words(need)}; there is: {had}",
                hint="ray.resources, or ray.address=HOST:PORT",
            )
        return need

    def room(self, need: Mapping[str, float]) -> int:
        """For how many such processes there is room when nothing else runs."""
        asked = {name: amount for name, amount in need.items() if amount}
        return sum(min((int(m.get(name, 0) / n) for name, n in asked.items()), default=1) for m in self.machines())

    def __str__(self) -> str:
        machines = self.machines()
        total = {name: sum(m.get(name, 0) for m in machines) for name in UNITS.values()}
        where = "started here" if self.own else self.ray.get_runtime_context().gcs_address
        return f"{where}, {len(machines)} machine{'s' * (len(machines) > 1)}, {words({k: v for k, v in total.items() if v})}"


def words(amounts: Mapping[str, float]) -> str:
    """``cpu=4, gpu=1``."""
    names = {theirs: ours for ours, theirs in UNITS.items()}
    return ", ".join(f"{names.get(name, name)}={amount:g}" for name, amount in amounts.items())


@contextmanager
def connected(config: RayConfig) -> Iterator[Cluster]:
    """Be connected to the cluster that is meant; one that this process is connected to already is taken.

    What Slurm says of this process is forgotten: it may have started the cluster, but not what runs on it.

    Raises:
        MachineError: Ray is not installed, or there is no cluster at the address.
    """
    ray = optional("ray", "ray", what="launcher=ray", where=" on every machine of the cluster")
    forget_slurm()
    if ray.is_initialized():
        yield Cluster(ray, own=False)
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is sent that nobody asked for
    quiet: dict[str, Any] = {"logging_level": "ERROR", "log_to_driver": False}
    given = config.address or os.environ.get("RAY_ADDRESS")
    if given:
        reachable(given)
    for address in [given] if given else ["auto", "local"]:
        own = address == "local"
        try:
            ray.init(address=address, **quiet, **({"include_dashboard": False} if own else {}))
            break
        except Exception as error:
            if address == "auto" and not given and isinstance(error, ConnectionError):
                continue  # no cluster on this machine
            raise MachineError(
                f"cannot use the Ray cluster at {address}: {str(error).strip().splitlines()[0]}",
                hint="ray start --head on one machine, ray start --address=HOST:6379 on the others; "
                "the same versions of Python and Ray on all; RAY_AUTH_MODE=token where the cluster wants a token",
            ) from error
    try:
        yield Cluster(ray, own)
    finally:
        ray.shutdown()


def reachable(address: str) -> None:
    """Hold an address to its form, and see that somebody answers there: Ray itself would try for minutes.

    Raises:
        ConfigError: not of the form.
        MachineError: nobody answers.
    """
    if address in ("auto", "local"):
        return
    host, _, port = address.rpartition(":")
    if "://" in address or not host or not port.isdecimal() or int(port) > 65535:
        raise ConfigError(
            f"ray.address must be HOST:PORT, auto or local, got {address!r}",
            hint="from outside of the cluster: ray job submit --address http://HEAD:8265 -- potstill ...",
        )
    if port in OTHERS:
        raise ConfigError(f"{address} is the {OTHERS[port]} of a Ray cluster", hint=f"{host}:6379, as ray start says")
    try:
        socket.create_connection((host.strip("[]"), int(port)), PATIENCE).close()
    except OSError as error:
        raise MachineError(
            f"no Ray cluster answers at {address}: {error.strerror or error}",
            hint="ray start --head, or without an address for a cluster on this machine",
        ) from None


def forget_slurm() -> None:
    """Take away what Slurm says of this process."""
    for name in [name for name in os.environ if name.startswith("SLURM_")]:
        del os.environ[name]


@dataclass(frozen=True)
class Place:
    """Where a command was given, for the workers, which may be anywhere: its folder, and what stands in the common one.

    Attributes:
        mark: a file that the command has written into the common folder, and locked.
        word: what is in it.
    """

    cwd: str
    mark: Path
    word: str
    settings: dict[str, str]
    version: str = __version__

    def enter(self) -> None:
        """Stand there.

        Raises:
            MachineError: the folder is not common, locks are not kept in it, or potstill is another here.
        """
        here = socket.gethostname()
        why = "the folder must be the same on all machines, by the same path (NFS or the like)"
        if self.version != __version__:
            raise MachineError(f"{here} has potstill {__version__}, the command {self.version}")
        try:
            os.chdir(self.cwd)
            seen = self.mark.read_text("utf-8")
        except OSError as error:
            raise MachineError(f"{here} does not see {error.filename}: {error.strerror}", why=why) from None
        if seen != self.word:
            raise MachineError(f"{here} sees another {self.mark.parent} than the command", why=why)
        try:
            FileLock(f"{self.mark}.lock").acquire(timeout=0)
        except Timeout:
            forget_slurm()
            os.environ.update(self.settings)
            return
        raise MachineError(
            f"{here} does not see the locks of others in {self.mark.parent}",
            why="by them it is known which process lives: without them two would do the same work",
            hint="a file system with locks: NFS version 4, or Lustre with flock",
        )


@contextmanager
def common(folder: Path) -> Iterator[Place]:
    """What workers need to stand where this process stands; they see by it whether they share ``folder``.

    Raises:
        MachineError: it cannot be written.
    """
    word = uuid.uuid4().hex
    mark = folder.absolute() / f".common-{word[:12]}"
    settings = {name: value for name, value in os.environ.items() if name.startswith("POTSTILL_")}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        mark.write_text(word, "utf-8")
        lock = FileLock(f"{mark}.lock")
        lock.acquire()
    except OSError as error:
        raise MachineError(f"cannot write {folder}: {error.strerror}", hint="--out FOLDER") from None
    try:
        yield Place(str(Path.cwd()), mark, word, settings)
    finally:
        lock.release()
        for path in (mark, Path(f"{mark}.lock")):
            path.unlink(missing_ok=True)
