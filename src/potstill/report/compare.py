"""Several runs side by side: the leaderboard as rows, as a table for the terminal, as CSV and as a page."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from potstill.report.numbers import difference, mean, role
from potstill.report.read import Run, dig, number, read_all, text
from potstill.report.words import NBSP, NONE, clean, count, duration, interval, points, size, spread

if TYPE_CHECKING:
    from rich.table import Table

SAME = {"fingerprint": "data", "epochs": "numbers of epochs", "student": "student networks"}


@dataclass(frozen=True)
class Row:
    """A line of the leaderboard.

    Attributes:
        method: how the student was taught; ``alone`` for the control, ``train`` for a training without a teacher.
        student: the network.
        seeds: how many trainings the numbers are of.
        top1: test top-1 after the last epoch, ``{mean, std, n, values}``, shares; None where nothing has finished.
        difference: to the control of the same budget, ``{mean, low, high, significant, n, how}``; None for the control.
        parameters, bytes: of the student.
        seconds: of one training, mean over seeds.
        run, status: the run directory's name, and how it ended.
        data, fingerprint, epochs: what must be equal where two lines are to be compared.
        teacher: the teacher's test top-1.
    """

    method: str
    student: str
    seeds: int
    top1: dict[str, Any] | None
    difference: dict[str, Any] | None
    parameters: float | None
    bytes: float | None
    seconds: float | None
    run: str
    status: str
    data: str | None
    fingerprint: str | None
    epochs: float | None
    teacher: float | None


def compare(paths: Sequence[str | Path]) -> list[Row]:
    """The leaderboard of several runs, best test top-1 (mean over seeds, last epoch) first.

    Each control is a line of its own, ``alone``; one that several runs share is listed once.

    Raises:
        ConfigError: no run was given, one twice, or a path is no run directory.
    """
    return rows_of(read_all(paths))


def rows_of(runs: Sequence[Run]) -> list[Row]:
    rows: dict[object, Row] = {}
    for run in runs:
        for name in ("student", "control"):
            if name == "student" or role(run, name):
                row = _row(run, name)
                same = (row.student, row.fingerprint, row.epochs, row.parameters, repr(row.top1))
                rows.setdefault(same if name == "control" else id(row), row)
    return sorted(rows.values(), key=lambda r: -r.top1["mean"] if r.top1 else float("inf"))


def _row(run: Run, name: str) -> Row:
    facts, numbers = run.facts, role(run, name)
    taught = "train" if dig(facts, "kind") == "train" else text(dig(facts, "method")) or "distill"
    took = mean([dig(t.result, "seconds") for t in run.role(name)])
    top1 = dig(numbers, "last", "top1")
    return Row(
        method=taught if name == "student" else "alone",
        student=dig(numbers, "label") or NONE,
        seeds=top1["n"] if top1 else 0,
        top1=top1,
        difference=difference(run) if name == "student" else None,
        parameters=number(dig(facts, "student", "parameters")),
        bytes=number(dig(facts, "student", "bytes")),
        seconds=took["mean"] if took else None,
        run=run.name,
        status=text(dig(facts, "status")) or "unknown",
        data=text(dig(facts, "data", "source")),
        fingerprint=text(dig(facts, "data", "fingerprint")),
        epochs=number(dig(facts, "budget", "epochs")),
        teacher=number(dig(facts, "results", "teacher", "test", "top1")),
    )


def notices(rows: Sequence[Row]) -> list[str]:
    """Why lines of this leaderboard may not be comparable."""
    said = []
    for field, what in SAME.items():
        values = {getattr(r, field) for r in rows}
        if len(values) > 1:
            shown = ", ".join(sorted(clean(r, 24) for r in values))
            said.append(f"The runs differ in their {what}: {shown}. Compare such lines with care.")
    said += [
        f"{clean(r.run, 80)} has not finished (status: {clean(r.status, 20)})."
        for r in rows
        if r.status != "done" and r.method != "alone"
    ]
    if any(r.seeds == 1 for r in rows):
        said.append("Lines with one seed have no spread: small differences between them mean nothing.")
    return said


def cells(row: Row) -> list[str]:
    """A line in words, for the table and the page."""
    d = row.difference
    gain = (
        f"{points(d['mean'])} [{interval(d).replace(f'{NBSP}to{NBSP}', ', ')}]"
        if d and d["low"] is not None
        else points(d["mean"] if d else None)
    )
    doubt = " n.s." if d and d["low"] is not None and not d["significant"] else ""
    return [
        row.method,
        row.student,
        str(row.seeds),
        spread(row.top1),
        gain + doubt,
        count(row.parameters),
        size(row.bytes),
        duration(row.seconds),
    ]


HEADS = ("method", "student", "seeds", "test top-1, %", "vs alone, points [95 %]", "parameters", "size", "time")


def compare_table(rows: Sequence[Row]) -> Table:
    """The leaderboard for a terminal. ``n.s.`` (not significant): the 95 % interval covers 0."""
    from rich.table import Table
    from rich.text import Text

    table = Table(
        box=None, pad_edge=False, header_style="dim", caption="\n".join(notices(rows)) or None, caption_justify="left"
    )
    for i, head in enumerate(HEADS):
        table.add_column(
            head, justify="left" if i < 2 else "right", overflow="fold" if i < 2 else "ellipsis", no_wrap=i >= 2
        )
    for row in rows:
        table.add_row(*(Text(clean(c, 60)) for c in cells(row)))
    return table


def compare_csv(rows: Sequence[Row]) -> str:
    """The leaderboard as CSV: a line a row, shares and points as shares in [0, 1], nested values in columns of their own."""
    parts = {"top1": ("mean", "std"), "difference": ("mean", "low", "high", "significant", "how")}
    names = [
        n for f in fields(Row) for n in ([f"{f.name}_{p}" for p in parts[f.name]] if f.name in parts else [f.name])
    ]
    file = io.StringIO()
    writer = csv.DictWriter(file, names, lineterminator="\n")
    writer.writeheader()
    for row in rows:
        flat = {f.name: getattr(row, f.name) for f in fields(Row) if f.name not in parts}
        flat |= {f"{k}_{p}": dig(getattr(row, k), p) for k, ps in parts.items() for p in ps}
        writer.writerow(flat)
    return file.getvalue()
