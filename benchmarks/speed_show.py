"""The lines of benchmarks/results/speed.jsonl as a table and as a figure."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results" / "speed.jsonl"
METHODS = ("kd", "fitnet", "at", "sp", "cc", "vid", "rkd", "pkt", "ab", "ab before", "ft", "ft before", "fsp", "fsp before",
           "nst", "crd", "crd+kd", "kdsvd", "dkd", "dist", "ofd", "reviewkd", "ickd")  # fmt: skip
OURS = ("exact", "auto", "equal", "cached", "compiled", "compiled cached", "fast", "fast cached")
COLOURS = dict(
    zip(OURS, ("#9aa5b1", "#5b8db8", "#1f5f99", "#4f9d69", "#b58fc2", "#7a4b94", "#e0a03c", "#c0563b"), strict=True)
)
Row = dict[str, Any]


def lines() -> list[Row]:
    """All of them, oldest first."""
    return [json.loads(line) for line in RESULTS.read_text().splitlines()] if RESULTS.exists() else []


def rows() -> list[Row]:
    """Those that are the newest of their method, nets, batch and device, with each peer; without a peer, where there is none."""
    newest: dict[tuple[Any, ...], Row] = {}
    for row in lines():
        key = (row["pair"], row["device"], row.get("batch", 64), METHODS.index(row["method"]))
        for peer in row["of"] or ("",):
            newest.pop((*key, peer), None)
            newest[*key, peer] = row
        if row["of"]:
            newest.pop((*key, ""), None)
    return [
        newest[key]
        for i, key in enumerate(sorted(newest))
        if newest[key] not in [newest[k] for k in sorted(newest)[:i]]
    ]


def table(shown: Sequence[Row] | None = None) -> str:
    """In Markdown: a line a method and variant; times in ms, memory in MiB."""
    shown = rows() if shown is None else shown
    peers = sorted({p for r in shown for p in r["of"]})
    head = ["nets", "method", "variant", "ms a step", "its floor", "of its floor", *(f"of {p}" for p in peers)]
    head += ["peak, resident", "peak, tensors", "outside kernels"]
    text = [f"| {' | '.join(head)} |", "|---|---|---|" + "--:|" * (len(head) - 3)]
    for r in shown:
        memory = r.get("memory_mib", {})
        floors = {n: s / r["of_floor"][n] for n, s in r["seconds"].items()} | r.get("floor_seconds", {})
        for name in r["seconds"]:
            cells = [", ".join(_where(r)), r["method"], name, _said(1e3 * r["seconds"][name], "{:.3g}")]
            cells += [_said(1e3 * floors[name], "{:.3g}"), _said(r["of_floor"][name], "{:.2f}")]
            cells += [_said(r["of"].get(p, {}).get(name), "{:.3f}") for p in peers]
            cells += [_said(memory.get(name, {}).get(key), "{:.0f}") for key in ("resident", "tensors")]
            text.append(f"| {' | '.join([*cells, _said(r['outside_kernels'].get(name), '{:.2f}')])} |")
    return "\n".join(text)


def _where(row: Row) -> tuple[str, str]:
    """Nets and device, with the batch where it is another."""
    size = row.get("batch", 64)
    return row["pair"], row["device"] + (f", batch {size}" if size != 64 else "")


def _said(figure: float | None, form: str) -> str:
    return "" if figure is None else form.format(figure)


def plot(file: Path) -> None:
    """Bars by method: the time of a step of each variant, of its floor's and of each peer's. A panel for each, nets and device.

    Raises:
        SystemExit: there is no line.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    panels: dict[tuple[str, str, str], dict[str, dict[str, float]]] = {}
    for r in rows():
        floors = {n: of for n, of in r["of_floor"].items() if n in OURS}
        for other, of in {"its floor": floors, **r["of"]}.items():
            panels.setdefault((other, *_where(r)), {})[r["method"]] = of
    if not panels:
        raise SystemExit("there is no line to draw")
    with rc_context({"svg.hashsalt": "potstill", "font.size": 9, "axes.spines.top": False, "axes.spines.right": False}):
        most = max(map(len, panels.values()))
        figure = Figure(figsize=(max(6.0, 1.0 + 0.62 * most), 3.1 * len(panels)), layout="constrained")
        for ax, ((other, pair, device), by_method) in zip(
            figure.subplots(len(panels), squeeze=False)[:, 0], panels.items(), strict=True
        ):
            _panel(ax, by_method)
            ax.set_ylabel(f"time of a step, of {other}" + ("" if other == "its floor" else "'s"))
            ax.set_title(f"{pair.replace('-', ' → ')}, {device}", loc="left", fontsize=10)
        drawn = {label: bars for ax in figure.axes for bars, label in zip(*ax.get_legend_handles_labels(), strict=True)}
        names = [n for n in OURS if n in drawn]
        figure.legend([drawn[n] for n in names], names, loc="outside upper right", ncols=4, fontsize=8, frameon=False)
        figure.savefig(file, metadata={"Date": None} if file.suffix == ".svg" else None)


def _panel(ax: Any, by_method: dict[str, dict[str, float]]) -> None:
    shown = [n for n in OURS if any(n in of for of in by_method.values())]
    width = 0.84 / max(1, len(shown))
    for i, name in enumerate(shown):
        at = [(x, of[name]) for x, of in enumerate(by_method.values()) if name in of]
        places, heights = [x + (i + 0.5) * width - 0.42 for x, _ in at], [v for _, v in at]
        ax.bar(places, heights, width, label=name, color=COLOURS[name])
    ax.axhline(1, color="#444", linewidth=0.8)
    ax.set_xticks(range(len(by_method)), [m.replace(" ", "\n") for m in by_method])
    ax.grid(axis="y", linewidth=0.4, alpha=0.5)
    ax.set_axisbelow(True)
