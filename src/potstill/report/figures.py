"""The figures of the page: the numbers of ``report.json`` -> SVG. Every function gives "" where there is nothing to draw."""

from __future__ import annotations

from typing import Any

import numpy as np

from potstill.report import curves, svg
from potstill.report.decisions import decisions
from potstill.report.numbers import ROLES
from potstill.report.read import dig
from potstill.report.svg import COLOURS, MARKERS, NAMES, SHOWN_SEEDS
from potstill.report.words import clean, interval, percent, points

MANY = 40  # classes: above, bars have no names
FEWEST = 10  # predictions in a bin of a reliability diagram: fewer are noise


def draw(v: dict[str, Any]) -> dict[str, str]:
    """All figures of the page of one run, by name."""
    with svg.style():
        return {f.__name__: f(v) for f in (seeds, curves.validation, curves.links, decisions, calibration, classes)}


def seeds(v: dict[str, Any]) -> str:
    """Student and control of each seed as joined dots; beside them the differences with their interval."""
    rows = [r for r in v["seeds"] if r["student"] is not None or r["control"] is not None][:SHOWN_SEEDS]
    paired = any(r["difference"] is not None for r in rows)
    if not rows or (len(rows) < 2 and not paired):
        return ""
    columns = {"ncols": 2, "width_ratios": [3, 2]} if paired else {"ncols": 1}
    drawn, axes = svg.figure(svg.WIDTH, 74 + 24 * (len(rows) + 1), sharey=True, **columns)
    left, places = axes[0, 0], np.arange(len(rows), dtype=float)
    mean_at = len(rows) + 0.4
    for y, r in zip(places, rows, strict=True):
        if r["difference"] is not None:
            left.plot([100 * r["control"], 100 * r["student"]], [y, y], color=svg.FAINT, lw=2, zorder=1)
    for role in ("control", "student"):
        tops = np.array([np.nan if r[role] is None else 100 * r[role] for r in rows])
        left.plot(tops, places, MARKERS[role], color=COLOURS[role], ms=6.5)
        if s := dig(v, "table", role, "last", "top1"):
            left.errorbar(
                100 * s["mean"], mean_at, xerr=100 * (s["std"] or 0), fmt=MARKERS[role], color=COLOURS[role], ms=8, lw=2
            )
    if teacher := dig(v, "table", "teacher", "last", "top1"):
        left.axvline(100 * teacher["mean"], color=svg.TEACHER, lw=1.5, ls=(0, (4, 2)))
    left.set(title="Test top-1, %", yticks=[*places, mean_at], ylim=(mean_at + 0.6, -0.6))
    left.set_yticklabels([f"seed {r['seed']}" for r in rows] + ["mean"])
    left.grid(axis="x")
    if paired:
        right = axes[0, 1]
        xs = [np.nan if r["difference"] is None else 100 * r["difference"] for r in rows]
        right.axvline(0, color=svg.QUIET, lw=1)
        right.plot(xs, places, "o", color=svg.INK, ms=4.5)
        if (d := v["difference"]) and d["low"] is not None and d["high"] is not None:
            right.plot([100 * d["low"], 100 * d["high"]], [mean_at, mean_at], color=svg.INK, lw=2.5)
        if d:
            right.plot(100 * d["mean"], mean_at, "o", color=svg.INK, ms=7)
        right.set(title="Difference, points")
        right.grid(axis="x")
    for ax in axes.flat:
        ax.spines["left"].set_visible(False)
        ax.tick_params(axis="y", length=0)
    told = "; ".join(
        f"seed {r['seed']}: " + ", ".join(f"{NAMES[k]} {percent(r[k])}" for k in NAMES if r.get(k)) for r in rows
    )
    gain = (
        f" Mean difference {points(v['difference']['mean'])} points, {interval(v['difference'])}."
        if v["difference"]
        else ""
    )
    return svg.inline(drawn, "seeds", "Test top-1 of every seed", f"{told}.{gain}")


def calibration(v: dict[str, Any]) -> str:
    """The reliability diagram of each role: how often it is right when it is so sure."""
    shown = [(r, bins) for r in ROLES if (bins := [b for b in v["calibration"][r] if b["n"] >= FEWEST])]
    if not shown:
        return ""
    drawn, axes = svg.figure(240 * len(shown), 265, ncols=len(shown), sharex=True, sharey=True)
    told = []
    for ax, (role, bins) in zip(axes[0], shown, strict=True):
        x, y, n = (np.array([b[k] for b in bins]) for k in ("confidence", "accuracy", "n"))
        ax.plot([0, 100], [0, 100], color=svg.QUIET, lw=1)
        ax.plot(100 * x, 100 * y, color=COLOURS[role], lw=1.5)
        ax.scatter(
            100 * x,
            100 * y,
            s=8 + 240 * n / n.sum(),
            color=COLOURS[role],
            marker=MARKERS[role],
            clip_on=False,
            zorder=3,
        )
        ece = dig(v, "table", role, "last", "ece", "mean")
        name = NAMES[role] if v["kind"] != "train" else "network"
        ax.set(title=name if ece is None else f"{name}: ECE {percent(ece)}", xlabel="confidence, %")
        ax.set(xlim=(0, 100), ylim=(0, 100), xticks=(0, 50, 100), yticks=(0, 50, 100))
        ax.set_aspect("equal")
        ax.grid()
        sure, right = float((x * n).sum() / n.sum()), float((y * n).sum() / n.sum())
        told.append(f"{NAMES[role]}: mean confidence {percent(sure)}, accuracy {percent(right)}")
    axes[0, 0].set_ylabel("accuracy, %")
    return svg.inline(drawn, "calibration", "Reliability diagrams", "; ".join(told))


def classes(v: dict[str, Any]) -> str:
    """Accuracy of each class as sorted bars: student minus control and minus teacher; the accuracy itself without them."""
    rows, others = v["classes"], [r for r in ("control", "teacher") if v["classes"] and r in v["classes"][0]]
    if not rows:
        return ""
    few, panels = len(rows) <= MANY, others or [""]
    shape = {"ncols": len(panels)} if few else {"nrows": len(panels)}
    drawn, axes = svg.figure(svg.WIDTH, 60 + 17 * len(rows) if few else 200 * len(panels), **shape)
    told = []
    for ax, other in zip(axes.flat, panels, strict=True):
        gains = sorted(
            ((100 * (r["student"] - (r[other] if other else 0)), r["class"]) for r in rows), key=lambda g: g[0]
        )
        height, places = np.array([g for g, _ in gains]), np.arange(len(gains))
        colours = [svg.STUDENT if g >= 0 else COLOURS[other or "student"] for g in height]
        name = f"student − {NAMES[other]}, points" if other else "accuracy, %"
        if few:
            ax.barh(places, height, 0.72, color=colours)
            ax.set_yticks(places, [clean(c, 22).replace("\n", " ") for _, c in gains])
            ax.margins(y=0.01)
            ax.grid(axis="x")
        else:
            for side, colour in ((np.maximum, svg.STUDENT), (np.minimum, COLOURS[other or "student"])):
                ax.fill_between(places, side(height, 0), step="mid", color=colour, lw=0)
            ax.set_xticks([])
            ax.grid(axis="y")
        (ax.axvline if few else ax.axhline)(0, color=svg.QUIET, lw=0.8)
        ax.tick_params(axis="y", length=0)
        ax.spines[["left", "bottom"]].set_visible(False)
        ax.set_title(name)
        told.append(
            f"{name}: least {clean(gains[0][1], 40)} {gains[0][0]:+.1f}, most {clean(gains[-1][1], 40)} {gains[-1][0]:+.1f}"
        )
    return svg.inline(drawn, "classes", "Accuracy of each class", "; ".join(told))
