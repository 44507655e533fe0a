"""Commands that read finished runs."""

import dataclasses
import webbrowser
from pathlib import Path
from typing import Annotated

import typer

from potstill.commands import options as o
from potstill.commands.screen import SCREEN, columns

Runs = Annotated[list[str], typer.Argument(metavar="RUN...", help="Run directories.", show_default=False)]


def report(
    runs: Runs,
    out: Annotated[
        str | None, typer.Option("--out", metavar="FILE", help="The page [RUN/report.html, or compare.html]")
    ] = None,
    show: Annotated[bool, typer.Option("--open", help="Show it in the browser")] = False,
    json: o.Json = False,
    quiet: o.Quiet = False,
    verbose: o.Verbose = False,
) -> None:
    """Write the page of a run, or one that compares several: one file that opens offline.

    \b
      potstill report runs/1121-0102-kd-resnet8x4-photos --open
    """
    SCREEN.set(quiet, verbose, json)
    from potstill.report import report as write

    page = write(runs, out)
    if show:
        webbrowser.open(Path(page).resolve().as_uri())
    SCREEN.result(str(page), {"report": str(page)})


def compare(
    runs: Runs,
    csv: Annotated[bool, typer.Option("--csv", help="As CSV")] = False,
    json: o.Json = False,
    quiet: o.Quiet = False,
    verbose: o.Verbose = False,
) -> None:
    """The leaderboard of runs: mean ± std over seeds, difference to the student alone with its interval.

    \b
      potstill compare runs/*photos*
    """
    SCREEN.set(quiet, verbose, json)
    from potstill.report.compare import HEADS, cells, compare_csv, notices
    from potstill.report.compare import compare as rank

    rows = rank(runs)
    if csv:
        SCREEN.json = False
    SCREEN.result(
        compare_csv(rows) if csv else columns(map(cells, rows), HEADS), [dataclasses.asdict(row) for row in rows]
    )
    for notice in notices(rows):
        SCREEN.note(notice)
