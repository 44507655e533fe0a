"""Faults that a user can mend, by class: each has its exit code, says what is wrong and what to do. No torch here."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping


class PotstillError(Exception):
    """A fault with a message made for the user.

    Args:
        what: what is wrong: what was expected and what came. One sentence.
        where: the place, for example ``recipe.yaml:7:3`` or ``losses.kd.temperature``.
        why: why it matters, where that is not plain.
        hint: what to do: a command or a setting.
    """

    exit_code = 1

    def __init__(self, what: str, *, where: str | None = None, why: str | None = None, hint: str | None = None) -> None:
        super().__init__(what)
        self.what, self.where, self.why, self.hint = what, where, why, hint

    def __str__(self) -> str:
        lines = [f"{self.where}: {self.what}" if self.where else self.what]
        if self.why:
            lines.append(f"  {self.why}")
        if self.hint:
            lines.append(f"  try: {self.hint}")
        return "\n".join(lines)


class ConfigError(PotstillError):
    """The command or the configuration is wrong. Exit code 2."""

    exit_code = 2


class DataError(PotstillError):
    """The data cannot be used. Exit code 3."""

    exit_code = 3


class ModelError(PotstillError):
    """A model, a layer or weights cannot be used. Exit code 4."""

    exit_code = 4


class DivergedError(PotstillError):
    """The training gave a loss that is not finite. Exit code 5."""

    exit_code = 5


class MachineError(PotstillError):
    """Disk, memory, device, permission or an installed package. Exit code 6."""

    exit_code = 6


class RefusedError(PotstillError):
    """Refused for safety: it would run code from a file or read an unbounded input. Exit code 7."""

    exit_code = 7


class InterruptedRun(PotstillError):
    """Ctrl-C or SIGTERM: the state is saved. Exit code 130."""

    exit_code = 130


def did_you_mean(name: str, known: Iterable[str], synonyms: Mapping[str, str] | None = None) -> str:
    """`` Did you mean 'lr'?`` with a leading space, or nothing when no known name is near ``name``."""
    known = list(known)
    near = (synonyms or {}).get(name)
    if near not in known:
        lowered = {k.lower(): k for k in reversed(known)}
        close = difflib.get_close_matches(name.lower(), lowered, n=1, cutoff=0.6)
        near = lowered[close[0]] if close else None
    return f" Did you mean {near!r}?" if near else ""


def first_line(error: BaseException) -> str:
    """What an exception says, in one line."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
