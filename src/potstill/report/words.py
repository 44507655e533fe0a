"""Numbers in words: how the page writes a share, a spread, a size, and its headline."""

from __future__ import annotations

import re
from typing import Any

from potstill.report.read import dig

NONE = "–"
NBSP = "\u00a0"
THIN = "\u202f"  # narrow no-break space
UNFIT = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff]")


def clean(value: object, limit: int = 400) -> str:
    """Text for people: controls, direction changes and what XML forbids are made visible, very long text is cut."""
    whole = str(value)
    return UNFIT.sub("\ufffd", whole[:limit]) + ("…" if len(whole) > limit else "")


def percent(share: float | None, digits: int = 1) -> str:
    return NONE if share is None else f"{100 * share:.{digits}f}{THIN}%"


def share(value: float | None, digits: int = 1) -> str:
    """Percent without the sign, for columns that have it in their head."""
    return NONE if value is None else f"{100 * value:.{digits}f}"


def points(share: float | None, digits: int = 1) -> str:
    """A difference of shares in percentage points with its sign, and a true minus."""
    if share is None:
        return NONE
    written = f"{100 * share:+.{digits}f}".replace("-", "−")
    return f"{0:.{digits}f}" if not float(written.replace("−", "-")) else written


def spread(summary: dict[str, Any] | None, scale: float = 100, digits: int = 1) -> str:
    """``91.7 ± 0.9``; the mean alone where one seed gives no spread."""
    if not summary:
        return NONE
    std = summary["std"]
    return f"{scale * summary['mean']:.{digits}f}" + (
        f"{NBSP}±{NBSP}{scale * std:.{digits}f}" if std is not None else ""
    )


def interval(difference: dict[str, Any] | None, digits: int = 1) -> str:
    if not difference or difference["low"] is None or difference["high"] is None:
        return "no interval"
    return f"{points(difference['low'], digits)}{NBSP}to{NBSP}{points(difference['high'], digits)}"


def span(difference: dict[str, Any]) -> str:
    """What stands under the difference."""
    known = difference["low"] is not None
    return f"95{THIN}% interval {interval(difference)}" if known else "no interval: one seed"


def count(value: float | None) -> str:
    """A whole number in groups of three: ``14 538``."""
    return NONE if value is None else f"{value:,.0f}".replace(",", THIN)


def short(value: float | None) -> str:
    """A number with a unit prefix: ``14.5 k``, ``25.6 M``."""
    if value is None:
        return NONE
    for bound, prefix in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= 0.9995 * bound:
            return f"{value / bound:.3g}{THIN}{prefix}"
    return f"{value:.4g}"


def size(value: float | None) -> str:
    return NONE if value is None else f"{short(value)}B" if value >= 999.5 else f"{value:.0f}{THIN}B"


def milliseconds(value: float | None) -> str:
    return NONE if value is None else f"{value:.3g}{THIN}ms"


def times(value: float | None) -> str:
    return NONE if value is None else f"{value:.3g}×"


def duration(seconds: float | None) -> str:
    """``41 s``, ``3 m 20 s``, ``1 h 05 m``."""
    if seconds is None:
        return NONE
    if seconds < 60:
        return f"{seconds:.1f}{THIN}s" if seconds < 10 else f"{seconds:.0f}{THIN}s"
    minutes, rest = divmod(round(seconds), 60)
    return (
        f"{minutes}{THIN}m {rest:02d}{THIN}s" if minutes < 60 else f"{minutes // 60}{THIN}h {minutes % 60:02d}{THIN}m"
    )


def plural(n: float, one: str, many: str | None = None) -> str:
    return f"{count(n)} {one if n == 1 else many or one + 's'}"


def title(v: dict[str, Any]) -> str:
    """The one sentence over everything."""
    student = clean(dig(v, "table", "student", "label") or "the student", 60)
    reached = dig(v, "table", "student", "last", "top1", "mean")
    if reached is None:
        return f"No result yet for {student}"
    if v["kind"] == "train":
        return f"{student} reaches {percent(reached)} on the test pictures"
    d, teacher = v["difference"], clean(dig(v, "table", "teacher", "label") or "its teacher", 60)
    if d is None:
        return f"{student} taught by {teacher} reaches {percent(reached)}"
    amount = f"{abs(100 * d['mean']):.1f} points"
    if d["low"] is not None and not d["significant"]:
        return f"Learning from {teacher} makes no significant difference to {student}"
    once = "With one seed, " if sum(r["difference"] is not None for r in v["seeds"]) == 1 else ""
    return f"{once}{student} {'gains' if d['mean'] >= 0 else 'loses'} {amount} by learning from {teacher}"


def lead(v: dict[str, Any]) -> list[str]:
    """The headline in full: what was reached, against what, how surely, and what the same budget means."""
    last = {r: dig(v, "table", r, "last", "top1") for r in ("teacher", "student", "control")}
    if not last["student"]:
        return []
    n = last["student"]["n"]
    over = f"over {plural(n, 'seed')}" if n > 1 else "with a single seed, so that no spread can be given"
    name = clean(dig(v, "table", "student", "label") or "The student", 60)
    source = dig(v, "data", "source")
    data = f" of {clean(source, 60)}" if source else ""
    reached = f"{name} reached {spread(last['student'])}{THIN}% top-1 on the test pictures{data}, {over}"
    if v["kind"] == "train":
        return [f"{reached}."]
    said = [reached + (f"; alone it reached {spread(last['control'])}{THIN}%." if last["control"] else ".")]
    if d := v["difference"]:
        verdict = f" ({span(d)})"
        doubt = "" if d["significant"] or d["low"] is None else ": not significant, the interval covers 0"
        said.append(f"The difference is {points(d['mean'])} points{verdict}{doubt}.")
    else:
        said.append("No student was trained alone, so this run cannot say what the teacher added.")
    if last["teacher"]:
        model = clean(dig(v, "table", "teacher", "label") or "", 60)
        said.append(f"The teacher{f', {model},' if model else ''} has {percent(last['teacher']['mean'])}.")
    if v["gap_closed"] is not None and d and d["significant"] and d["mean"] > 0:
        said.append(f"That closes {percent(v['gap_closed'], 0)} of the gap between the student alone and its teacher.")
    return [*said, *([budget(v)] if last["control"] else [])]


def budget(v: dict[str, Any]) -> str:
    """What "the same budget" means, in a sentence."""
    b = v["budget"]
    parts = [plural(b["epochs"], "epoch")] if b["epochs"] else []
    parts += [plural(b["steps"], "step")] if b["steps"] else []
    parts += [f"batches of {count(b['batch'])}"] if b["batch"] else []
    amount = f" ({', '.join(parts)})" if parts else ""
    known, train = v["data"]["labelled"], v["data"]["train"]
    few = (
        f", which {count(known)} of the {count(train)} training pictures have"
        if known and train and known < train
        else ""
    )
    return (
        f"The student alone had the same network, data, seeds and training budget{amount}, "
        f"but no teacher: it learned from the labels{few}."
    )
