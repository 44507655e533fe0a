"""What commands say: results on stdout, messages on stderr. No torch."""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
import textwrap
import traceback
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TextIO

from potstill.errors import PotstillError, first_line

RED = "31;1"


@dataclass
class Screen:
    """How the user wants to be told; one for the process, set anew by each command."""

    quiet: bool = False
    verbose: bool = False
    json: bool = False

    def set(self, quiet: bool = False, verbose: bool = False, json: bool = False) -> None:
        """Take the flags of a command."""
        self.quiet, self.verbose, self.json = quiet, verbose, json

    def result(self, text: str, value: Any = None) -> None:
        """The result of a command: ``text`` for people, ``value`` with ``--json``."""
        shown = json.dumps(value, indent=1, ensure_ascii=False, default=str) if self.json else text
        sys.stdout.write(shown.rstrip("\n") + "\n")

    def note(self, text: str) -> None:
        """A message beside the result."""
        if not self.quiet:
            print(text, file=sys.stderr)

    @contextmanager
    def busy(self, text: str) -> Iterator[None]:
        """Say on a terminal what takes a moment, and take it back."""
        shown = not self.quiet and sys.stderr.isatty()
        if shown:
            print(f" {text} ...", end="", file=sys.stderr, flush=True)
        try:
            yield
        finally:
            if shown:
                print("\r\x1b[K", end="", file=sys.stderr, flush=True)

    def error(self, error: PotstillError) -> None:
        """A fault that the user can mend; its traceback only with ``-v``. Of several processes, which mostly have the same, the
        first tells it whole."""
        if self.verbose:
            traceback.print_exception(error, file=sys.stderr)
        rank = next((os.environ[k] for k in ("RANK", "LOCAL_RANK", "SLURM_PROCID") if k in os.environ), "0")
        said = str(error) if rank == "0" else f"of process {rank}: {first_line(error)}"
        print(f"{painted('error:', RED, sys.stderr)} {said}", file=sys.stderr)

    def bug(self, error: BaseException) -> None:
        """A fault of ours: two lines, and the traceback in a file."""
        with tempfile.NamedTemporaryFile(
            "w", prefix="potstill-", suffix=".log", delete=False, encoding="utf-8"
        ) as file:
            file.write(f"{' '.join(sys.argv)}\n\n")
            traceback.print_exception(error, file=file)
        if self.verbose:
            traceback.print_exception(error, file=sys.stderr)
        what = " ".join(str(error).split())[:200]
        print(
            f"{painted('error:', RED, sys.stderr)} unexpected, a fault of potstill: {type(error).__name__}: {what}",
            file=sys.stderr,
        )
        print(f"  the traceback is in {file.name}; please report it with what `potstill doctor` says", file=sys.stderr)


SCREEN = Screen()


def painted(text: str, code: str, stream: TextIO) -> str:
    """Text in colour, where the stream is a terminal and nobody forbids it (no-color.org)."""
    plain = os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb" or not stream.isatty()
    return text if plain else f"\x1b[{code}m{text}\x1b[0m"


def columns(rows: Iterable[Sequence[Any]], heads: Sequence[str] = ()) -> str:
    """A table of plain text. On a terminal its last column is wrapped, elsewhere every row is one line, for grep."""
    table = [[str(cell) for cell in row] for row in ([heads, *rows] if heads else rows)]
    widths = [max(map(len, column)) for column in list(zip(*table, strict=True))[:-1]]
    left = sum(widths) + 2 * len(widths)
    room = shutil.get_terminal_size().columns - left if sys.stdout.isatty() else 10_000
    lines = []
    for row in table:
        start = "".join(cell.ljust(width) + "  " for cell, width in zip(row[:-1], widths, strict=True))
        rest = textwrap.wrap(row[-1], max(room, 24)) or [""]
        lines += [(start + rest[0]).rstrip(), *(" " * left + more for more in rest[1:])]
    return "\n".join(lines)


def number(n: float) -> str:
    """1466 -> ``1,466``; 7433860 -> ``7.43 M``."""
    return f"{n:,.0f}" if n < 100_000 else f"{n / 1e6:.2f} M" if n < 1e9 else f"{n / 1e9:.2f} G"
