"""The page of a compression: what each stage cost and brought, and the files against teacher and float student."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from potstill.errors import ConfigError
from potstill.report import svg
from potstill.report.page import render
from potstill.report.read import dig, items, number, text
from potstill.report.svg import COLOURS, MARKERS, WIDTH
from potstill.report.words import clean, milliseconds, percent, points, short, size, times

CHAIN = "chain.json"
NETS = ("teacher", "student")
COSTS = {"parameters": "fewer parameters", "macs": "fewer multiply-adds"}
SHOWN = 40


def collect(path: Path) -> dict[str, Any]:
    """The numbers of a compression's folder, as its chain.json has them.

    Raises:
        ConfigError: there is none, or it is damaged.
    """
    try:
        facts = json.loads((path / CHAIN).read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path / CHAIN} cannot be read: {error}", hint="potstill compress RUN --out DIR") from None
    stages = [s for s in items(dig(facts, "stages")) if isinstance(s, dict)][:SHOWN]
    return {
        "format": 1,
        "potstill": text(dig(facts, "potstill")),
        "name": path.resolve().name,
        "status": text(dig(facts, "status")) or "unknown",
        "model": text(dig(facts, "model")),
        "stages": [_stage(s) for s in stages if number(dig(s, "facts", "parameters")) is not None],
        "recoveries": [_recovery(s) for s in stages if dig(s, "facts", "distilled")],
        "files": [_file(f) for s in stages for f in items(dig(s, "facts", "artefacts"))],
        "settings": [(str(dig(s, "name")), _settings(dig(s, "settings"))) for s in stages],
        "notices": [
            (str(dig(s, "name")), text(n)) for s in stages for n in items(dig(s, "facts", "notices"))[:SHOWN] if text(n)
        ],
    }


def _stage(stage: dict[str, Any]) -> dict[str, Any]:
    facts = dig(stage, "facts")
    row = {k: number(dig(facts, k)) for k in ("parameters", "macs", "bytes")}
    row |= {k: number(dig(facts, k, "top1")) for k in ("val", "test")}
    return {
        "name": str(dig(stage, "name")),
        **row,
        "agreement": number(dig(facts, "test", "agreement")),
        "cut": number(dig(facts, "cut", "test", "top1")),
        "seconds": number(dig(stage, "seconds")),
    }


def _recovery(stage: dict[str, Any]) -> dict[str, Any]:
    facts = dig(stage, "facts")
    last = {k: dig(facts, k, "last", "top1") for k in ("labels", "distilled")}
    return {
        "name": str(dig(stage, "name")),
        "statistics": number(dig(facts, "before", "test", "top1")),
        **{k: s if number(dig(s, "mean")) is not None else None for k, s in last.items()},
        "difference": dig(facts, "difference") or None,
        "epochs": number(dig(facts, "budget", "epochs")),
    }


def _file(row: dict[str, Any]) -> dict[str, Any]:
    name, worst = str(dig(row, "name")), dig(row, "val", "worst_class")
    return {
        "name": name,
        "role": name if name in NETS else "control",
        "runtime": text(dig(row, "runtime")),
        "precision": text(dig(row, "precision")),
        "bytes": number(dig(row, "bytes")),
        "latency_ms": number(dig(row, "latency_ms")),
        "cpu_ms": number(dig(row, "cpu_ms")),
        "contended": bool(dig(row, "contended")),
        "val": number(dig(row, "val", "top1")),
        "test": number(dig(row, "test", "top1")),
        "drop": None if (drop := number(dig(row, "val", "drop"))) is None else drop / 100,
        "agreement": number(dig(row, "test", "agreement")),
        "worst": worst and f"{clean(dig(worst, 'class'), 40)} {points(-(number(dig(worst, 'drop')) or 0) / 100)}",
    }


def page(v: dict[str, Any]) -> str:
    """The whole page as HTML.

    Args:
        v: of :func:`collect`.
    """
    from markupsafe import Markup

    with svg.style():
        drawn = trade(v)
    return render(
        "compression.html.j2",
        v=v,
        title=title(v),
        big=big_numbers(v),
        contended=any(f["contended"] for f in v["files"]),
        figure_svg=Markup(drawn),  # made by svg.inline, which escapes
        against=ratios(v),
    )


def smallest(v: dict[str, Any]) -> dict[str, Any] | None:
    """The file of the fewest bytes."""
    files = [f for f in v["files"] if f["role"] == "control" and f["bytes"]]
    return min(files, key=lambda f: f["bytes"], default=None)


def ends(v: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]] | None:
    """What came in, and what came out: the smallest file, else the last net."""
    return (v["stages"][0], smallest(v) or v["stages"][-1]) if v["stages"] else None


def title(v: dict[str, Any]) -> str:
    """The one sentence over everything."""
    found = ends(v)
    if found is None or not (found[0]["bytes"] and found[1]["bytes"]):
        return "No result yet"
    first, last = found
    smaller = f"{clean(v['model'] or 'The net', 60)}, {times(first['bytes'] / last['bytes'])} smaller"
    if first["test"] is None or last["test"] is None:
        return smaller
    lost = first["test"] - last["test"]
    how = "as accurate as before" if points(lost) == points(0.0) else f"{points(-lost)} points of accuracy"
    return f"{smaller}, {how}"


def big_numbers(v: dict[str, Any]) -> list[dict[str, str]]:
    """What is read first."""
    found = ends(v)
    if found is None:
        return []
    first, last, net = *found, v["stages"][-1]
    big = [{"label": f"test top-1, from {percent(first['test'])}", "value": percent(last["test"])}]
    big.append(
        {
            "label": f"{'file' if 'runtime' in last else 'weights'}, from {size(first['bytes'])}",
            "value": size(last["bytes"]),
        }
    )
    if last.get("cpu_ms"):
        big.append({"label": f"a picture in {last['runtime']}, one thread", "value": milliseconds(last["cpu_ms"])})
    for name, label in COSTS.items():
        if first[name] and net[name] and first[name] != net[name]:
            big.append({"label": label, "value": times(first[name] / net[name])})
    return big


def ratios(v: dict[str, Any]) -> dict[str, tuple[str, str]]:
    """How many times smaller and faster each file is than the teacher, else than the float student, both as torch runs them."""
    base = next((f for name in NETS for f in v["files"] if f["name"] == name), None)
    if base is None:
        return {}

    def over(f: dict[str, Any], key: str) -> str:
        return times(base[key] / f[key] if base[key] and f[key] else None)

    return {f["name"]: (over(f, "bytes"), over(f, "cpu_ms")) for f in v["files"]}


def trade(v: dict[str, Any]) -> str:
    """Accuracy against size and against latency, a mark a file; where there are none, against the costs of the stages' nets."""
    files = [f for f in v["files"] if f["test"] is not None]
    panels = (
        [("bytes", 1e-3, "size, kB", files), ("cpu_ms", 1.0, "milliseconds a picture (processor)", files)]
        if files
        else [("macs", 1e-6, "multiply-adds, million", v["stages"]), ("bytes", 1e-3, "weights, kB", v["stages"])]
    )
    shown = [(k, s, name, [r for r in rows if r["test"] is not None and r[k]]) for k, s, name, rows in panels]
    if not all(rows for *_, rows in shown):
        return ""
    drawn, axes = svg.figure(WIDTH, 300, ncols=len(shown), sharey=True)
    told = []
    for ax, (key, scale, name, rows) in zip(axes.flat, shown, strict=True):
        for i, r in enumerate(rows):
            role = r.get("role", "student")
            ax.plot(scale * r[key], 100 * r["test"], MARKERS[role], color=COLOURS[role], ms=8)
            short_name = clean(r["name"], 30).removeprefix("student.")
            ax.annotate(
                short_name,
                (scale * r[key], 100 * r["test"]),
                (0, 9 if i % 2 else -16),
                textcoords="offset points",
                ha="center",
            )
            told.append(f"{clean(r['name'], 40)}: {short(scale * r[key])} {name}, {percent(r['test'])}")
        svg.log_scale(ax, "x")
        ax.margins(0.22, 0.25)
        ax.grid()
        ax.set_xlabel(name)
    axes[0, 0].set_ylabel("test top-1, %")
    return svg.inline(drawn, "trade", "Accuracy against cost", "; ".join(told))


def _settings(said: Any) -> str:
    given = said if isinstance(said, dict) else {}
    return ", ".join(f"{k} {json.dumps(x)}" for k, x in given.items() if x not in (None, {}, [], ""))
