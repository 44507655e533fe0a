"""The run directory: its name, its lock, run.json, the journal. No torch."""

from __future__ import annotations

import datetime
import json
import os
import platform
import re
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from potstill._version import __version__
from potstill.errors import ConfigError, MachineError
from potstill.files import write_json

PACKAGES = (
    "torch",
    "numpy",
    "lightning-fabric",
    "pydantic",
    "safetensors",
    "pillow",
    "scikit-learn",
    "transformers",
    "timm",
)


class Journal:
    """Lines of JSON in a file that only grows, but for a resumed run, which forgets what came after its checkpoint."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def write(self, row: Mapping[str, Any]) -> None:
        """Append a line."""
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")

    def offset(self) -> int:
        """How many bytes are written."""
        return self.path.stat().st_size if self.path.exists() else 0

    def truncate(self, offset: int) -> None:
        """Forget all after ``offset`` bytes."""
        if self.offset() > offset:
            os.truncate(self.path, offset)

    def rows(self) -> list[dict[str, Any]]:
        """Every line so far."""
        return [json.loads(line) for line in self.path.read_text("utf-8").splitlines()] if self.path.exists() else []


class RunFolder:
    """A run directory that one process writes.

    Args:
        path: the directory.
        facts: what run.json says; kept up to date by :meth:`update`.
    """

    def __init__(self, path: Path, facts: dict[str, Any]) -> None:
        self.path, self.facts = path, facts

    @classmethod
    def new(cls, path: Path, facts: Mapping[str, Any]) -> RunFolder:
        """Make the directory; where the name is taken, ``-2``, ``-3`` ... is added: nothing is ever overwritten.

        Raises:
            MachineError: it cannot be written.
        """
        candidate = free(path)
        run = cls(candidate, {"format": 1, "potstill": __version__, "name": candidate.name, **facts})
        run.update(status="running", started=now(), host=socket.gethostname(), pid=os.getpid())
        return run

    @classmethod
    def open(cls, path: str | Path) -> RunFolder:
        """An existing run directory.

        Raises:
            ConfigError: there is no run.json in it, or it is broken.
        """
        path = Path(path)
        try:
            return cls(path, json.loads((path / "run.json").read_text("utf-8")))
        except OSError:
            raise ConfigError(f"{path} is not a run directory: it has no run.json", hint="ls runs") from None
        except ValueError as error:
            raise ConfigError(f"{path / 'run.json'} is damaged: {error}") from None

    def update(self, **facts: Any) -> None:
        """Add to run.json, atomically."""
        self.facts.update(facts)
        write_json(self.path / "run.json", self.facts)

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Be the only writer. The system gives the lock back when the process ends, however it ends.

        Raises:
            ConfigError: another process writes this run.
        """
        held = FileLock(self.path / ".lock")
        try:
            held.acquire(timeout=0)
        except Timeout:
            who = f"process {self.facts.get('pid')} on {self.facts.get('host')}"
            raise ConfigError(f"{self.path} is being written by {who}", hint="wait for it, or stop it") from None
        try:
            yield
        finally:
            held.release()

    def log(self, text: str) -> None:
        """Add to log.txt."""
        with open(self.path / "log.txt", "a", encoding="utf-8") as file:
            file.write(text.rstrip("\n") + "\n")


def free(path: Path) -> Path:
    """A new and empty folder of that name; where it is taken, ``-2``, ``-3`` ... is added.

    Raises:
        MachineError: it cannot be made.
    """
    candidate, i = path, 1
    try:
        candidate.parent.mkdir(parents=True, exist_ok=True)
        while True:
            try:
                candidate.mkdir()
                return candidate
            except FileExistsError:
                if candidate.is_dir() and not any(candidate.iterdir()):
                    return candidate  # an empty folder that the user made for it
                i += 1
                candidate = path.with_name(f"{path.name}-{i}")
    except OSError as error:
        file = next((p for p in (path, *path.parents) if p.exists() and not p.is_dir()), None)
        reason = f"{file} is a file" if file else error.strerror
        raise MachineError(f"cannot make the run directory {path}: {reason}", hint="--out FOLDER") from None


class Follower(RunFolder):
    """The run directory as every process but the first sees it: one process writes."""

    def update(self, **facts: Any) -> None:
        self.facts.update(facts)

    @contextmanager
    def lock(self) -> Iterator[None]:
        yield

    def log(self, text: str) -> None:
        """Nothing: the first process tells."""


def now() -> str:
    """The time, ISO 8601 with the zone."""
    return datetime.datetime.now().astimezone().isoformat(timespec="seconds")


def auto_name(*parts: str | None) -> str:
    """``1121-0019-kd-resnet8x4-flowers``: the time, then the parts in letters that every file system takes."""
    words = [re.sub(r"[^\w+.=-]+", "_", p).strip("_")[:40] for p in parts if p]
    return "-".join([datetime.datetime.now().strftime("%m%d-%H%M"), *filter(None, words)])


def environment(device: str) -> dict[str, Any]:
    """Versions and hardware, for run.json."""
    return {
        "python": platform.python_version(),
        "torch": _version("torch"),
        "platform": platform.platform(),
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "device": device,
        "packages": {name: v for name in PACKAGES if (v := _version(name))},
    }


def git_state() -> dict[str, Any] | None:
    """The commit of the folder that the command runs in, and whether it has changes; None outside git."""

    def ask(*arguments: str) -> str:
        result = subprocess.run(["git", *arguments], capture_output=True, text=True, timeout=10, check=True)
        return result.stdout.strip()

    try:
        return {"commit": ask("rev-parse", "HEAD"), "dirty": bool(ask("status", "--porcelain", "-uno"))}
    except (OSError, subprocess.SubprocessError):
        return None


def command_line() -> list[str]:
    """The command as it was given."""
    return [Path(sys.argv[0]).name, *sys.argv[1:]]


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _cpu() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


__all__ = ["Journal", "RunFolder", "auto_name", "command_line", "environment", "free", "git_state", "now"]
