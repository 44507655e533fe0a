"""What a run says while it runs: messages on stderr, a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from rich.console import Console as Rich
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table


class Console:
    """Messages for people, on stderr; results go to stdout by their commands.

    Args:
        quiet: only errors.
        verbose: more than is needed.
    """

    def __init__(self, quiet: bool = False, verbose: bool = False) -> None:
        self.rich = Rich(stderr=True, highlight=False, quiet=quiet, soft_wrap=True)
        self.verbose = verbose
        self.bar: Progress | None = None
        self.header: tuple[str, ...] = ()

    def say(self, text: str = "") -> None:
        """One line."""
        self.rich.print(text, markup=False)

    def table(self, table: Table) -> None:
        """A table."""
        self.rich.print(table)

    def begin(self, title: str, epochs: int) -> None:
        """A training begins."""
        self.title, self.epochs, self.header, self.tick = title, epochs, (), 0.0
        self.say(f"\n {title}")
        if self.rich.is_terminal and not self.rich.quiet:
            self.bar = Progress(
                TextColumn("  {task.description}"),
                BarColumn(bar_width=28),
                MofNCompleteColumn(),
                TimeRemainingColumn(),
                console=self.rich,
                transient=True,
            )
            self.bar.start()
            self.task = self.bar.add_task(title, total=None)

    def step(self, epoch: int, step: int, steps: int) -> None:
        """A step is done."""
        if self.bar is not None and time.monotonic() - self.tick > 0.2:
            self.tick = time.monotonic()
            total = self.epochs * steps
            self.bar.update(
                self.task,
                total=total,
                completed=epoch * steps + step,
                description=f"{self.title} {epoch + 1}/{self.epochs}",
            )

    def epoch(self, row: Mapping[str, Any], who: str = "") -> None:
        """An epoch is done: its losses and measures as a line of a table, and of several students whose they are."""
        if (
            self.bar is not None
            and self.epochs > 40
            and row["epoch"] % (self.epochs // 20)
            and row["epoch"] != self.epochs
        ):
            return  # on a terminal the bar tells; twenty lines are enough
        cells = {"student": who} if who else {}
        cells |= {"epoch": f"{row['epoch']}/{self.epochs}", "loss": f"{row['train']['loss']:.4g}"}
        if len(row["train"]["links"]) > 1:
            cells |= {name: f"{value:.4g}" for name, value in row["train"]["links"].items()}
        for name, label in (("top1", "val top-1"), ("agreement", "agree")):
            if name in row["val"]:
                cells[label] = f"{100 * row['val'][name]:.2f}"
        cells |= {"lr": f"{row['lr']:.4g}", "time": f"{row['seconds']:.0f}s"}
        widths = [max(len(k), 9) for k in cells]
        if tuple(cells) != self.header:
            self.header = tuple(cells)
            self.say("  " + "".join(k.rjust(w + 1) for k, w in zip(cells, widths, strict=True)))
        self.say("  " + "".join(v.rjust(w + 1) for v, w in zip(cells.values(), widths, strict=True)))

    def end(self) -> None:
        """The training is over, one way or another."""
        if self.bar is not None:
            self.bar.stop()
            self.bar = None
