"""Spot-adaptive distillation on the page: how often each spot teaches, and whom it teaches most and least."""

from __future__ import annotations

from typing import Any

from potstill.report import svg
from potstill.report.curves import POINTS, over_epochs, series, strands
from potstill.report.numbers import class_names, name_of
from potstill.report.pictures import BYTES, png
from potstill.report.read import Run, dig
from potstill.report.svg import COLOURS, WIDTH
from potstill.report.words import clean

SPOTS = 12  # panels


def decisions(v: dict[str, Any]) -> str:
    """The probability of distilling at each spot over the epochs, a panel a spot."""
    rows = [e for c in v["curves"] if c["role"] == "student" for e in c["epochs"]]
    names = list(dict.fromkeys(n for e in rows for n in (dig(e, "decisions") or {})))[:SPOTS]
    panels = {n: lines for n in names if (lines := series(v, "student", "decisions", n))}
    if not panels:
        return ""
    columns = min(3, len(panels))
    count = -(-len(panels) // columns)
    drawn, axes = svg.figure(WIDTH, 180 * count + 20, ncols=columns, nrows=count, sharey=True)
    budget = POINTS // sum(len(x) for lines in panels.values() for x, _ in lines)
    told = []
    for ax, (name, lines) in zip(axes.flat, panels.items(), strict=False):
        strands(ax, lines, COLOURS["student"], budget, 100)
        ax.set_title(clean(name, 24).replace("\n", " ") + ", %")
        ax.set_ylim(-2, 102)
        over_epochs(ax, v)
        first, last = (sum(float(y[i]) for _, y in lines) / len(lines) for i in (0, -1))
        told.append(f"{name} from {100 * first:.0f} % to {100 * last:.0f} %")
    for ax in list(axes.flat)[len(panels) :]:
        ax.set_axis_off()
    return svg.inline(drawn, "decisions", "Probability of distilling at each spot over the epochs", "; ".join(told))


def taught(run: Run) -> list[dict[str, Any]]:
    """Of a class, the training picture that is distilled least and the one that is distilled most; classes as they come."""
    if run.decided is None:
        return []
    names, shown, room = class_names(run), [], BYTES
    d = run.decided
    for i in range(0, len(d.images) - 1, 2):
        row: dict[str, Any] = {"class": clean(name_of(names, int(d.y[i])), 40)}
        for which, at in (("least", i), ("most", i + 1)):
            src, width, height = png(d.images[at])
            room -= len(src)
            row[which] = {"src": src, "width": width, "height": height, "p": float(d.p[at]), "id": int(d.ids[at])}
        if room < 0:
            break
        shown.append(row)
    return shown
