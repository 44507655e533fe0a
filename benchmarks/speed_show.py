"""The lines of benchmarks/results/speed.jsonl as a table and as a figure."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results" / "speed.jsonl"
METHODS = ("kd", "fitnet", "at", "sp", "cc", "vid", "rkd", "pkt", "ab", "ab before", "ft", "ft before", "fsp", "fsp before",
           "nst", "crd", "crd+kd", "kdsvd", "dkd", "dist", "ofd", "reviewkd")  # fmt: skip
OURS = ("exact", "auto", "equal", "fast", "cached", "fast cached")
COLOURS = dict(zip(OURS, ("#9aa5b1", "#5b8db8", "#1f5f99", "#e0a03c", "#4f9d69", "#c0563b"), strict=True))


def rows() -> list[dict[str, Any]]:
    """The newest line of each method, pair and device."""
    lines = RESULTS.read_text().splitlines() if RESULTS.exists() else []
    found = {(r["pair"], r["device"], METHODS.index(r["method"])): r for r in map(json.loads, lines)}
    return [found[k] for k in sorted(found)]


def table() -> str:
    """In Markdown."""
    lines = []
    for r in rows():
        columns = [n for n in ("floor", "floor bf16", *OURS, *r["of"]) if n in r["seconds"]]
        peers = "; ".join(f"{p}: " + ", ".join(f"{n} {v:.2f}" for n, v in of.items()) for p, of in r["of"].items())
        times = ", ".join(f"{n} {1e3 * r['seconds'][n]:.3g}" for n in columns)
        memory = ", ".join(f"{n} {v:.0f}" for n, v in r["peak_mib"].items() if v is not None)
        over = ", ".join(f"{n} {v:.2f}" for n, v in r["of_floor"].items() if n in OURS)
        idle = ", ".join(f"{n} {v:.2f}" for n, v in r["outside_kernels"].items())
        lines.append(f"| {r['pair']}, {r['device']} | {r['method']} | {times} | {over} | {peers} | {memory} | {idle} |")
    head = "| nets | method | ms a step | of the floor | of the peer | peak MiB | outside kernels |"
    return "\n".join([head, "|---" * 7 + "|", *lines])


def plot(file: Path) -> None:
    """Bars by method: the time of a step of each variant, of the peer's. A panel a peer, nets and device.

    Raises:
        SystemExit: no line has a peer.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    panels: dict[tuple[str, str, str], dict[str, dict[str, float]]] = {}
    for r in rows():
        for peer, of in r["of"].items():
            panels.setdefault((peer, r["pair"], r["device"]), {})[r["method"]] = of
    if not panels:
        raise SystemExit("no line has a peer: give --peer NAME=PATH")
    with rc_context({"svg.hashsalt": "potstill", "font.size": 9, "axes.spines.top": False, "axes.spines.right": False}):
        most = max(map(len, panels.values()))
        figure = Figure(figsize=(max(6.0, 1.0 + 0.62 * most), 3.1 * len(panels)), layout="constrained")
        for ax, ((peer, pair, device), by_method) in zip(
            figure.subplots(len(panels), squeeze=False)[:, 0], panels.items(), strict=True
        ):
            _panel(ax, by_method)
            ax.set_ylabel(f"time of a step, of {peer}'s")
            ax.set_title(f"{pair.replace('-', ' → ')}, {device}", loc="left", fontsize=10)
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
    ax.legend(ncols=len(shown), fontsize=8, frameon=False, loc="lower right", bbox_to_anchor=(1, 1))
