"""The page that compares several runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from potstill.report import svg
from potstill.report.compare import HEADS, Row, cells, notices, rows_of
from potstill.report.page import render
from potstill.report.read import Run
from potstill.report.svg import COLOURS, MARKERS, WIDTH
from potstill.report.words import THIN, clean, percent, short, spread


def collect_rows(runs: Sequence[Run]) -> dict[str, Any]:
    """The numbers of the comparison page."""
    rows = rows_of(runs)
    return {"format": 1, "rows": [asdict(r) for r in rows], "notices": notices(rows)}


def comparison(v: dict[str, Any]) -> str:
    """The comparison as a page."""
    from markupsafe import Markup

    rows = [Row(**r) for r in v["rows"]]
    with svg.style():
        figures = {"leaderboard": Markup(leaderboard(v["rows"])), "trade": Markup(trade(v["rows"]))}
    best = next((r for r in rows if r.top1), None)
    title = (
        "No result yet"
        if best is None
        else f"{clean(best.method, 40)} has the highest mean, {spread(best.top1)}{THIN}%"
    )
    runs = len({r.run for r in rows})
    return render(
        "compare.html.j2",
        title=title,
        rows=rows,
        cells=cells,
        heads=HEADS,
        notices=v["notices"],
        figures=figures,
        runs=runs,
    )


def leaderboard(rows: list[dict[str, Any]]) -> str:
    """Every line of a comparison: seeds, mean and spread; beside them the difference to the student alone."""
    shown = [r for r in rows if r["top1"]][:60]
    if not shown:
        return ""
    differ = any(r["difference"] for r in shown)
    columns = {"ncols": 2, "width_ratios": [3, 2]} if differ else {"ncols": 1}
    drawn, axes = svg.figure(WIDTH, 66 + 30 * len(shown), sharey=True, **columns)
    places = range(len(shown))
    for y, r in zip(places, shown, strict=True):
        role, s = "control" if r["method"] == "alone" else "student", r["top1"]
        seeds_ = [100 * x for x in s["values"]] if s["n"] > 1 else []
        axes[0, 0].plot(seeds_, [y] * len(seeds_), ".", color=COLOURS[role], ms=5, alpha=0.5)
        axes[0, 0].errorbar(
            100 * s["mean"], y, xerr=100 * (s["std"] or 0), fmt=MARKERS[role], color=COLOURS[role], ms=7.5, lw=2
        )
        if differ and (d := r["difference"]):
            ends = [d["mean"] if d[k] is None else d[k] for k in ("low", "high")]
            axes[0, 1].plot([100 * e for e in ends], [y, y], color=svg.INK, lw=2.5)
            axes[0, 1].plot(100 * d["mean"], y, "o", color=svg.INK, ms=6.5)
    for teacher in {r["teacher"] for r in shown} - {None}:
        axes[0, 0].axvline(100 * teacher, color=svg.TEACHER, lw=1.5, ls=(0, (4, 2)))
    axes[0, 0].set(title="Test top-1, %", ylim=(len(shown) - 0.4, -0.6))
    axes[0, 0].set_yticks(places, [clean(f"{r['method']} {r['student']}", 26).replace("\n", " ") for r in shown])
    if differ:
        axes[0, 1].set(title="Difference to alone, points")
        axes[0, 1].axvline(0, color=svg.QUIET, lw=1)
    for ax in axes.flat:
        ax.grid(axis="x")
        ax.spines["left"].set_visible(False)
        ax.tick_params(axis="y", length=0)
    told = "; ".join(f"{clean(r['method'], 30)} {clean(r['student'], 30)} {percent(r['top1']['mean'])}" for r in shown)
    return svg.inline(drawn, "leaderboard", "Test top-1 of every run", told)


def trade(rows: list[dict[str, Any]]) -> str:
    """Parameters against accuracy, where the students differ in size."""
    shown = [r for r in rows if r["top1"] and r["parameters"]]
    if len({r["parameters"] for r in shown}) < 2:
        return ""
    drawn, axes = svg.figure(WIDTH, 320)
    ax, named = axes[0, 0], set()
    for r in shown:
        role = "control" if r["method"] == "alone" else "student"
        ax.plot(r["parameters"], 100 * r["top1"]["mean"], MARKERS[role], color=COLOURS[role], ms=8)
        if (role, r["parameters"]) in named:
            continue  # the best of a size has a name, the rest would stand on it
        named.add((role, r["parameters"]))
        name = clean(f"{r['method']} {r['student']}", 30).replace("\n", " ")
        ax.annotate(
            name, (r["parameters"], 100 * r["top1"]["mean"]), (7, 4), textcoords="offset points", color=svg.QUIET
        )
    svg.log_scale(ax, "x")
    ax.set(xlabel="parameters", title="Test top-1, %")
    ax.margins(x=0.15, y=0.12)
    ax.grid()
    return svg.inline(
        drawn,
        "trade",
        "Parameters against test top-1",
        "; ".join(f"{clean(r['method'], 30)}: {short(r['parameters'])}, {percent(r['top1']['mean'])}" for r in shown),
    )
