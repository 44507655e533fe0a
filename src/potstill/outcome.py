"""What came out: results over the seeds, the best student, pictures of disagreement; and saying so."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file

from potstill import stats
from potstill.console import Console
from potstill.files import write_atomically
from potstill.ready import Ready
from potstill.runs import RunFolder

MEASURES = ("top1", "top5", "nll", "ece", "agreement")
EXAMPLES = 24


def finish(folder: RunFolder, ready: Ready, trials: Mapping[str, list[dict[str, Any]]]) -> None:
    """Put the results so far into run.json, and the best student where it is found."""
    students, controls = trials["student"], trials["control"]
    results: dict[str, Any] = {
        "student": summarised(students),
        "control": summarised(controls) if controls else None,
        "teacher": {"test": ready.teacher_measures["test"], "val": ready.teacher_measures["val"]}
        if ready.teacher
        else None,
        "difference": None,
    }
    if controls and len(controls) == len(students):
        results["difference"] = stats.paired(_top1(students), _top1(controls))
    best = max(students, key=lambda r: r["best"]["val"].get("top1", 0.0))
    source = folder.path / f"student-s{best['seed']}"
    for name in ("student.safetensors", "student.json"):
        write_atomically(folder.path / name, (source / name).read_bytes())
    if (source / "decided.safetensors").exists():
        write_atomically(folder.path / "decided.safetensors", (source / "decided.safetensors").read_bytes())
    done = max(t["epochs"] for t in students)  # fewer than configured where early_stop or time_limit ended them
    budget = {**folder.facts["budget"], "epochs": done}
    budget["steps"] = len(ready.stream(ready.config.seed)) * done
    folder.update(results=results, best_seed=best["seed"], best_epoch=best["best"]["epoch"], budget=budget)
    if ready.teacher is not None:
        _examples(folder, ready, source)


def _top1(trials: list[dict[str, Any]]) -> list[float]:
    return [t["last"]["test"]["top1"] for t in trials]


def summarised(trials: list[dict[str, Any]]) -> dict[str, Any]:
    """Mean and spread over the seeds of every measure, at the last and at the best epoch."""
    return {
        when: {m: stats.summary([t[when]["test"][m] for t in trials]) for m in MEASURES if m in trials[0][when]["test"]}
        for when in ("last", "best")
    }


def _examples(folder: RunFolder, ready: Ready, source: Path) -> None:
    """A few test pictures on which student and teacher disagree most, for the report."""
    student = load_file(source / "test.logits.safetensors")["logits"].astype(np.float32)
    teacher = ready.teacher_logits["test"].float().cpu().numpy()
    s, t = student.argmax(1), teacher.argmax(1)
    confident = np.exp(teacher - teacher.max(1, keepdims=True))
    confident = confident.max(1) / confident.sum(1)
    chosen = sorted(np.flatnonzero(s != t), key=lambda i: -confident[i])[:EXAMPLES]
    test = ready.splits.test
    index = np.asarray(chosen, dtype=np.int64)
    save_file(
        {
            "images": np.ascontiguousarray(test.pictures(index)),
            "ids": test.ids[index],
            "y": test.labels[index],
            "student": s[index].astype(np.int64),
            "teacher": t[index].astype(np.int64),
        },
        folder.path / "examples.safetensors",
    )


def data_facts(ready: Ready) -> dict[str, Any]:
    """What run.json says of the data."""
    s = ready.splits
    return {
        "source": s.source,
        "fingerprint": s.fingerprint,
        "classes": list(s.classes),
        "train": len(s.train),
        "val": len(s.val),
        "test": len(s.test),
        "labelled": int((s.train.labels >= 0).sum()),
        "size": list(s.shape),
        "split": s.split,
        "notices": list(s.notices),
        "augment": repr(ready.views),
    }


def say_results(folder: RunFolder, console: Console) -> None:
    """The result in a few lines."""
    results, cards = folder.facts["results"], folder.facts
    console.say()
    console.say("                      test top-1 (last epoch)      parameters")

    def line(label: str, cell: str, parameters: int, tail: str = "") -> None:
        console.say(f"  {label:<18}  {cell:>22}  {parameters:>14,}  {tail}".rstrip())

    def cell(s: Mapping[str, Any]) -> str:
        top1 = s["last"]["top1"]
        return f"{100 * top1['mean']:.2f}" + (f" ± {100 * top1['std']:.2f}" if top1["n"] > 1 else "")

    size = cards["student"]["parameters"]
    if results["control"]:
        line("student alone", cell(results["control"]), (cards.get("control") or cards["student"])["parameters"])
    line(
        "student distilled" if cards["kind"] == "distill" else "net",
        cell(results["student"]),
        size,
        _gain(results["difference"]),
    )
    if results["teacher"]:
        line("teacher", f"{100 * results['teacher']['test']['top1']:.2f}", cards["teacher"]["parameters"])
    console.say()
    console.say(f" report   {folder.path / 'report.html'}")
    own = results["student"]["best"]["top1"]["values"][cards["seeds"].index(cards["best_seed"])]
    which = f"seed {cards['best_seed']}, epoch {cards['best_epoch']}, the best on the validation data: {100 * own:.2f} % test"
    console.say(f" student  {folder.path / 'student.safetensors'} ({which})")


def _gain(difference: Mapping[str, Any] | None) -> str:
    if difference is None:
        return ""
    text = f"{100 * difference['mean']:+.2f} points"
    if difference["low"] is None:
        return f"{text} (one seed: no spread)"
    verdict = "" if difference["significant"] else ", not significant"
    return f"{text} [{100 * difference['low']:+.2f}, {100 * difference['high']:+.2f}]{verdict}"
