"""The page of a sweep: how it went, the front, each setting against what it brought."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from potstill.files import write_atomically
from potstill.report import svg
from potstill.report.page import render
from potstill.report.words import THIN, clean, percent
from potstill.report.write import as_json
from potstill.search.facts import short, written

PANELS = 9
MARKS = {"done": ("student", "o"), "stopped": ("control", "D")}
UNITS = {"latency": "ms at batch 1, one thread", "macs": "multiply-adds", "bytes": "bytes", "parameters": "parameters"}
Facts = Mapping[str, Any]


def write(folder: Path, v: Facts) -> None:
    """``sweep.json`` and ``sweep.html``, each whole or as it was."""
    write_atomically(folder / "sweep.json", as_json(dict(v)).encode("utf-8", "replace"))
    write_atomically(folder / "sweep.html", page(v).encode("utf-8", "replace"))


def read(folder: Path) -> dict[str, Any]:
    """What ``sweep.json`` says."""
    return dict(json.loads((folder / "sweep.json").read_text("utf-8")))


def page(v: Facts) -> str:
    """The whole page as HTML, from the numbers of :func:`potstill.search.facts.collect`."""
    from markupsafe import Markup

    with svg.style():
        drawn = {"history": history(v), "front": front(v), "slices": slices(v)}
    rows = {r["number"]: r for r in v["trials"]}
    best = rows.get(v["best"])
    where = f"{clean(v['student'], 60)} on {clean(v['data'], 60)}"
    title = f"{percent(best['value'], 2)} on the validation pictures: {where}" if best else f"No result yet: {where}"
    order = sorted(v["trials"], key=lambda r: (r["state"] != "done", -(r["value"] or 0), r["number"]))
    return render(
        "sweep.html.j2",
        v=v,
        title=title,
        best=best,
        front=[rows[number] for number in v["front"]],
        unit=UNITS.get(v["against"], ""),
        trials=order,
        counts={s: sum(r["state"] == s for r in v["trials"]) for s in dict.fromkeys(r["state"] for r in v["trials"])},
        figures={name: Markup(figure) for name, figure in drawn.items()},  # made by svg.inline, which escapes
        keys=[d["key"] for d in v["space"]],
        short=short,
        cell=cell,
        written=written,
    )


def cell(value: Any) -> str:
    """A setting in a table."""
    return f"{value:.4g}" if isinstance(value, float) else clean(value, 60)


def history(v: Facts) -> str:
    """Accuracy over the trials, and the best so far as a line."""
    done = shown(v)
    if not done:
        return ""
    drawn, axes = svg.figure(svg.WIDTH, 260)
    ax, most = axes[0, 0], list[float]()
    dots(ax, done, lambda r: r["number"])
    finished = [r for r in done if r["state"] == "done"]
    for row in finished:
        most.append(max([*most[-1:], 100 * row["value"]]))
    ax.step([r["number"] for r in finished], most, where="post", color=svg.INK, lw=1.5)
    ax.set(title="Validation top-1, %", xlabel="trial")
    ax.xaxis.get_major_locator().set_params(integer=True)
    ax.grid(axis="y")
    told = f"the best so far ends at {most[-1]:.2f}{THIN}%" if most else "no trial is done"
    return svg.inline(drawn, "history", "Accuracy on the validation pictures, trial after trial", told)


def front(v: Facts) -> str:
    """Accuracy against cost, and the trials that no other beats as a line."""
    against = v["against"]
    done = [r for r in v["trials"] if r["state"] == "done" and against in r["costs"]]
    if not against or not done:
        return ""
    drawn, axes = svg.figure(svg.WIDTH, 320)
    ax, best = axes[0, 0], [r for number in v["front"] for r in done if r["number"] == number]
    dots(ax, done, lambda r: r["costs"][against])
    x, y = [r["costs"][against] for r in best], [100 * r["value"] for r in best]
    ax.step(x, y, where="post", color=svg.INK, lw=1.5)
    ax.plot(x, y, "o", ms=9, mfc="none", mec=svg.INK, mew=1.5)
    for a, b, row in zip(x, y, best, strict=True):
        ax.annotate(str(row["number"]), (a, b), xytext=(6, -12), textcoords="offset points", color=svg.QUIET)
    if max(r["costs"][against] for r in done) > 3 * min(r["costs"][against] for r in done) > 0:
        svg.log_scale(ax, "x")
    ax.set(title="Validation top-1, %", xlabel=UNITS[against])
    ax.grid()
    told = "; ".join(f"{a:,.5g} {against} {b:.2f}{THIN}%" for a, b in zip(x, y, strict=True))
    return svg.inline(drawn, "front", "Accuracy against cost; the line joins those that no other beats", told)


def slices(v: Facts) -> str:
    """A panel for each setting: its value against the accuracy."""
    done, space = shown(v), list(v["space"])[:PANELS]
    if not done or not space:
        return ""
    columns = min(3, len(space))
    lines = -(-len(space) // columns)
    drawn, axes = svg.figure(svg.WIDTH, 210 * lines + 10, ncols=columns, nrows=lines, sharey=True)
    for ax, d in zip(axes.flat, space, strict=False):
        if d["choices"]:
            places = {str(label): i for i, label in enumerate(d["choices"])}
            dots(ax, done, lambda r, d=d, p=places: p.get(str(r["settings"][d["key"]]), 0))
            ax.set_xticks(
                range(len(places)), [clean(p, 14).replace("\n", " ") for p in places], rotation=20, ha="right"
            )
            ax.set_xlim(-0.5, len(places) - 0.5)
        else:
            dots(ax, done, lambda r, d=d: r["settings"][d["key"]])
            if d["log"]:
                svg.log_scale(ax, "x")
        ax.set_title(clean(short(d["key"]), 26).replace("\n", " "))
        ax.grid(axis="y")
    for ax in list(axes.flat)[len(space) :]:
        ax.set_axis_off()
    told = ", ".join(short(d["key"]) for d in space)
    return svg.inline(drawn, "slices", "Each setting against the validation top-1, %", f"Settings: {told}")


def shown(v: Facts) -> list[dict[str, Any]]:
    """The trials that a figure has: those with an accuracy."""
    return [r for r in v["trials"] if r["state"] in MARKS and r["value"] is not None]


def dots(ax: Any, rows: Sequence[Facts], x: Any) -> None:
    """The trials as marks, by their state."""
    for state, (role, mark) in MARKS.items():
        own = [r for r in rows if r["state"] == state]
        ax.plot([x(r) for r in own], [100 * r["value"] for r in own], mark, color=svg.COLOURS[role], ms=6, alpha=0.8)
