"""The figures of the training: validation accuracy and losses over the epochs."""

from __future__ import annotations

import functools
import itertools
from typing import Any

import numpy as np

from potstill.report import svg
from potstill.report.read import dig, number
from potstill.report.svg import COLOURS, NAMES, SHOWN_SEEDS, WIDTH
from potstill.report.words import clean, percent

LINKS = 12  # panels of losses
STAGES = 12  # borders between stages that are drawn
POINTS = 8_000  # drawn over all lines of a figure, so that the page stays small
Line = tuple[np.ndarray, np.ndarray]


def validation(v: dict[str, Any]) -> str:
    """Validation top-1 over epochs, and agreement with the teacher where it was measured."""
    panels = []
    for metric, title in (("top1", "Validation top-1, %"), ("agreement", "Agreement with the teacher, %")):
        lines = {r: series(v, r, "val", metric) for r in ("control", "student")}
        panels += [(metric, title, lines)] if any(lines.values()) else []
    if not panels:
        return ""
    drawn, axes = svg.figure(WIDTH, 260, ncols=len(panels))
    budget = POINTS // sum(len(x) for _, _, lines in panels for x in lines.values())
    told = []
    for ax, (metric, title, lines) in zip(axes.flat, panels, strict=True):
        for role, runs in lines.items():
            strands(ax, runs, COLOURS[role], budget, 100)
            if runs and metric == "top1":
                told.append(f"{NAMES[role]} ends at {percent(float(np.mean([y[-1] for _, y in runs])))}")
        if metric == "top1" and (level := teacher_level(v)) is not None:
            ax.axhline(100 * level, color=svg.TEACHER, lw=1.5, ls=(0, (4, 2)))
        ax.set_title(title)
        over_epochs(ax, v)
    return svg.inline(drawn, "validation", "Accuracy on the validation pictures over the epochs", "; ".join(told))


def teacher_level(v: dict[str, Any]) -> float | None:
    """The teacher's accuracy on the validation pictures; where it is not known, on the test pictures."""
    return number(v["teacher_val"]) or number(dig(v, "table", "teacher", "last", "top1", "mean"))


def links(v: dict[str, Any]) -> str:
    """The loss of each link over epochs, a panel each; the control's where it has the link too."""
    names = link_names(v)[:LINKS]
    panels = {n: {r: series(v, r, "train", "links", n) for r in ("control", "student")} for n in names}
    panels = {n: lines for n, lines in panels.items() if any(lines.values())}
    if not panels:
        return ""
    columns = min(3, len(panels))
    rows = -(-len(panels) // columns)
    drawn, axes = svg.figure(WIDTH, 200 * rows + 20, ncols=columns, nrows=rows)
    budget = POINTS // sum(len(x) for lines in panels.values() for x in lines.values())
    told = []
    for ax, (name, lines) in zip(axes.flat, panels.items(), strict=False):
        for role, runs in lines.items():
            strands(ax, runs, COLOURS[role], budget)
        values = np.concatenate([y for runs in lines.values() for _, y in runs])
        wide = values.min() > 0 and values.max() > 30 * values.min()
        if wide:
            svg.log_scale(ax, "y")
        if not wide and values.min() >= 0:
            ax.set_ylim(bottom=0)
        ax.set_title(clean(name, 24).replace("\n", " ") + (" (log scale)" if wide else ""))
        over_epochs(ax, v)
        if s := lines["student"]:
            told.append(f"{name} from {np.mean([y[0] for _, y in s]):.3g} to {np.mean([y[-1] for _, y in s]):.3g}")
    for ax in list(axes.flat)[len(panels) :]:
        ax.set_axis_off()
    return svg.inline(drawn, "links", "Training loss of each link over the epochs", "Student: " + "; ".join(told))


def link_names(v: dict[str, Any]) -> list[str]:
    """Every link of student and control, in the order of their appearance."""
    curves = sorted(
        (c for c in v["curves"] if c["role"] in ("student", "control")), key=lambda c: c["role"] == "control"
    )
    parts = (dig(e, "train", "links") for c in curves for e in c["epochs"])
    return list(dict.fromkeys(name for part in parts if isinstance(part, dict) for name in part))


def series(v: dict[str, Any], role: str, *keys: str) -> list[Line]:
    """One line a seed of a role: epochs and values, without those that are not finite numbers."""
    found = []
    for curve in [c for c in v["curves"] if c["role"] == role][:SHOWN_SEEDS]:
        pairs = {e["epoch"]: y for e in curve["epochs"] if (y := number(dig(e, *keys))) is not None}
        if pairs:
            x, y = np.array(sorted(pairs.items()), float).T
            found.append((x, y))
    return found


def strands(ax: Any, runs: list[Line], colour: str, points_each: int, scale: float = 1) -> None:
    """Seeds as thin lines, their mean (over the epochs that all have) as a thick one."""
    if not runs:
        return
    shared = functools.reduce(np.intersect1d, [x for x, _ in runs])
    mean = np.mean([y[np.isin(x, shared)] for x, y in runs], axis=0)
    if len(runs) > 1:
        for x, y in runs:
            keep = thinned(len(x), points_each)
            ax.plot(x[keep], scale * y[keep], color=colour, lw=0.8, alpha=0.45)
    keep = thinned(len(mean), points_each)
    ax.plot(shared[keep], scale * mean[keep], color=colour, lw=2, marker="o" if len(mean) == 1 else None)


def thinned(n: int, most: int) -> np.ndarray:
    """At most ``most`` (no fewer than 30) of n places, evenly, with the first and the last."""
    return np.unique(np.linspace(0, n - 1, min(n, max(most, 30))).round().astype(int)) if n else np.zeros(0, int)


def over_epochs(ax: Any, v: dict[str, Any]) -> None:
    """The axis of epochs: whole numbers, and a faint upright line where a new stage of the training begins."""
    ax.set_xlabel("epoch")
    ax.xaxis.get_major_locator().set_params(integer=True)
    ax.margins(x=0.02)  # no room for an epoch 0
    ax.grid(axis="y")
    named = [
        (e["epoch"], dig(e, "stage")) for e in next((c["epochs"] for c in v["curves"] if c["role"] == "student"), [])
    ]
    borders = [(a + b) / 2 for (a, before), (b, after) in itertools.pairwise(named) if before != after]
    for border in borders[:STAGES]:
        ax.axvline(border, color=svg.FAINT, lw=1, ls=":")
