"""The numbers behind the page: a run directory -> one plain dict, which is also ``report.json``."""

from __future__ import annotations

from typing import Any

import numpy as np

from potstill._version import __version__
from potstill.report import labels
from potstill.report.counts import calibration, class_accuracy, flips
from potstill.report.read import Run, Said, Trial, dig, items, number, text
from potstill.stats import paired, summary

METRICS = ("top1", "top5", "nll", "ece", "agreement")
ROLES = ("teacher", "student", "control")


def collect(run: Run) -> dict[str, Any]:
    """Everything that the page says in numbers; shares in [0, 1], seconds, bytes, multiply-accumulates.

    Means over seeds are made of the trials' own results; where a trial has none, of what run.json holds.
    """
    facts = run.facts
    table = {r: role(run, r) for r in ROLES}
    values: dict[str, Any] = {
        "format": 1,
        "potstill": __version__,
        "name": run.name,
        "kind": "train" if dig(facts, "kind") == "train" else "distill",
        "status": text(dig(facts, "status")) or "unknown",
        "method": text(dig(facts, "method")),
        "data": {k: text(dig(facts, "data", k)) for k in ("source", "fingerprint", "split")}
        | {k: number(dig(facts, "data", k)) for k in ("train", "val", "test", "labelled")},
        "seconds": number(dig(facts, "seconds")),
        "budget": {k: number(dig(facts, "budget", k)) for k in ("epochs", "steps", "batch")},
        "table": table,
        "teacher_val": number(dig(facts, "results", "teacher", "val", "top1")),
        "difference": difference(run),
        "gap_closed": gap_closed(table),
        "smaller": smaller(table),
        "seeds": seeds(run),
        "test": test_size(run),
        "calibration": {r: calibration(s) for r, s in spoken(run).items()},
        "classes": class_rows(run),
        "checks": checks(run),
        "student_sha256": run.student_sha256,
        "missing": run.missing,
        "curves": [{"trial": t.name, "role": t.role, "seed": t.seed, "epochs": t.epochs} for t in run.trials],
    }
    return values


def role(run: Run, name: str) -> dict[str, Any] | None:
    """One row of the first table: what the net costs and how good it is, after the last and at the best epoch."""
    teaching = name == "teacher"
    card = dig(run.facts, "teacher" if teaching else "student")
    costs = {k: number(dig(card, k)) for k in ("parameters", "macs", "bytes", "latency_ms")}
    label = labels.nets(dig(run.facts, "student"), dig(run.facts, "teacher"))[teaching]
    words = {"label": label, "model": text(dig(card, "model")), "sha256": text(dig(card, "sha256"))}
    row: dict[str, Any] = {**words, "kwargs": dig(card, "kwargs"), **costs}
    if teaching:
        counted = {"top1": float(run.teacher.right.mean())} if run.teacher else {}
        test = dig(run.facts, "results", "teacher", "test") or counted
        row["last"] = {m: mean([dig(test, m)]) for m in METRICS}
        return row if card else None
    for when in ("last", "best"):
        row[when] = {m: over_seeds(run, run.role(name), name, when, m) for m in METRICS}
    return row if run.role(name) or any(row["last"].values()) else None


def over_seeds(run: Run, trials: list[Trial], name: str, when: str, metric: str) -> dict[str, Any] | None:
    own = [dig(t.result, when, "test", metric) for t in trials]
    return mean(own) or mean(items(dig(run.facts, "results", name, when, metric, "values")))


def mean(values: list[Any]) -> dict[str, Any] | None:
    """``{mean, std, n, values}`` of those that are finite numbers; None where there are none."""
    finite = [x for v in values if (x := number(v)) is not None]
    return summary(finite) if finite else None


def difference(run: Run) -> dict[str, Any] | None:
    """Student minus control, top-1 of the last epoch: as the run recorded it, else made here of its pairs of seeds."""
    kept = dig(run.facts, "results", "difference")
    if number(dig(kept, "mean")) is not None:
        span = {k: number(kept.get(k)) for k in ("mean", "low", "high", "n")}
        covers = span["low"] is None or span["high"] is None or span["low"] <= 0 <= span["high"]
        return {**span, "significant": not covers, "how": text(kept.get("how")) or ""}
    pairs = [(r["student"], r["control"]) for r in seeds(run) if r["difference"] is not None]
    return paired(*zip(*pairs, strict=True)) if pairs else None


def gap_closed(table: dict[str, Any]) -> float | None:
    """Share of the gap between control and teacher that the student closes.

    None where the teacher is not better by a point, or where student and control are not of the same number of seeds.
    """
    teacher, student, control = (dig(table, r, "last", "top1") for r in ROLES)
    if None in (teacher, student, control) or student["n"] != control["n"]:
        return None
    gap = teacher["mean"] - control["mean"]
    return None if gap < 0.01 else float((student["mean"] - control["mean"]) / gap)


def smaller(table: dict[str, Any]) -> dict[str, float | None]:
    """How many times smaller the student is than the teacher; None where a number is not known."""
    pairs = {
        k: (dig(table, "teacher", k), dig(table, "student", k)) for k in ("parameters", "macs", "bytes", "latency_ms")
    }
    return {k: t / s if t and s else None for k, (t, s) in pairs.items()}


def seeds(run: Run) -> list[dict[str, Any]]:
    """One row a seed: test top-1 of both nets, and how many pictures only one of them has right."""
    trials = {(t.role, t.seed): t for t in run.trials}
    rows = []
    for seed in sorted({t.seed for t in run.trials if t.role in ("student", "control")}):
        both = [trials.get((r, seed)) for r in ("student", "control")]
        s, c = (number(dig(t.result, "last", "test", "top1")) if t else None for t in both)
        said = [t.said for t in both if t and t.said]
        only = flips(*said) if len(said) == 2 and np.array_equal(said[0].y, said[1].y) else (None, None)
        gain = s - c if s is not None and c is not None else None
        rows.append(
            {
                "seed": seed,
                "student": s,
                "control": c,
                "difference": gain,
                "only_student": only[0],
                "only_control": only[1],
            }
        )
    return rows


def spoken(run: Run) -> dict[str, list[Said]]:
    """What each role said about the test pictures, a list over seeds."""
    said = {r: [t.said for t in run.role(r) if t.said] for r in ("student", "control")}
    return {"teacher": [run.teacher] if run.teacher else [], **said}


def test_size(run: Run) -> dict[str, float | None]:
    """The number of test pictures, and the standard error that it alone gives to the student's accuracy."""
    lengths = [len(s.y) for nets in spoken(run).values() for s in nets]
    n = lengths[0] if lengths else number(dig(run.facts, "data", "test"))
    p = mean([r["student"] for r in seeds(run)])
    error = float(np.sqrt(p["mean"] * (1 - p["mean"]) / n)) if p and n and 0 <= p["mean"] <= 1 else None
    return {"n": n, "standard_error": error}


def class_names(run: Run) -> list[str]:
    return [str(c) for c in items(dig(run.facts, "data", "classes"))]


def name_of(names: list[str], index: int) -> str:
    return names[index] if 0 <= index < len(names) else f"class {index}"


def class_rows(run: Run) -> list[dict[str, Any]]:
    """Accuracy of each class that has test pictures, mean over seeds, for each role that left logits."""
    nets = {r: s for r, s in spoken(run).items() if s}
    if "student" not in nets:
        return []
    y = nets["student"][0].y
    nets = {r: [s for s in all_ if np.array_equal(s.y, y)] for r, all_ in nets.items()}
    names = class_names(run)
    total = max(len(names), int(y.max()) + 1)
    accuracy = {r: class_accuracy(s, total) for r, s in nets.items() if s}
    counts = accuracy["student"][1]
    return [
        {"class": name_of(names, c), "n": int(counts[c]), **{r: float(a[c]) for r, (a, _) in accuracy.items()}}
        for c in np.flatnonzero(counts).tolist()
    ]


def checks(run: Run) -> list[dict[str, Any]]:
    """Test top-1 made again of the saved logits, against what the run recorded.

    Logits are kept in float16, so two that tie there may change places: two pictures of difference are let pass.
    """
    claims: list[tuple[str, float | None, Said | None]] = [
        (t.name, number(dig(t.result, "last", "test", "top1")), t.said) for t in run.trials
    ]
    claims.append(("teacher", number(dig(run.facts, "results", "teacher", "test", "top1")), run.teacher))
    rows = []
    for name, claim, said in claims:
        if claim is not None and said is not None:
            again = float(said.right.mean())
            rows.append(
                {"net": name, "recorded": claim, "again": again, "same": abs(claim - again) * len(said.y) <= 2.001}
            )
    return rows
