"""Every method alone and with KD on real CIFAR-100 on a CPU, at one budget; the table of the zoo.

    python -m benchmarks.methods_table --data parquet:PATH --out runs/table               # hours; goes on where it stopped
    python -m benchmarks.methods_table --out runs/table --print                           # the table of what is there

5,000 training pictures (50 a class), 5 epochs, batch 64, all 10,000 test pictures; teacher resnet20 (25 epochs of the same
pictures), student resnet8, published weights. The dozen that matter with seeds 0, 1, 2; the rest with seed 0. A line a training
in benchmarks/results/methods_table.jsonl. `--part 0/2` and `--part 1/2` share the work between two processes. `--cache DIR`
keeps the teacher's logits and vectors: as many views as epochs, in float32, so that pictures and answers are those of live
teaching (kd, seed 1: 10.94 either way), in half of the time.
"""

from __future__ import annotations

import argparse
import json
import os
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np

os.environ.setdefault("OMP_NUM_THREADS", "1")

from potstill import stats
from potstill.errors import PotstillError
from potstill.methods import PRESETS
from potstill.runs import git_state

RESULTS = Path(__file__).parent / "results" / "methods_table.jsonl"
DOZEN = ("at", "fitnet", "sp", "cc", "vid", "rkd", "pkt", "nst", "crd", "dkd", "dist", "reviewkd")
EPOCHS, LIMIT = 5, 5000
# Beside the presets: KD with the weights that it has beside another method (its own are 0.9, and 0.1 for cross-entropy), and
# SemCKD with a quarter of its weight, since the published one, meant for smaller maps than this teacher's, diverges.
VARIANTS: dict[str, tuple[str, dict[str, dict[str, float]]]] = {
    "kd, weights 1 and 1": ("kd", {"ce": {"weight": 1.0}, "kd": {"weight": 1.0}}),
    "semckd, weight 100": ("semckd", {"semckd": {"weight": 100.0}}),
    "semckd, weight 100+kd": ("semckd+kd", {"semckd": {"weight": 100.0}}),
}
# Published test top-1 of resnet56 -> resnet20 on CIFAR-100, 240 epochs of all 50,000 pictures: (alone, with KD). Alone: the table
# of RepDistiller's README for the classics (one harness), the authors' papers for the rest; with KD: the table of SSKD's README.
PUBLISHED: dict[str, tuple[float | None, float | None]] = {
    "none": (69.06, None),
    "kd": (70.66, None),
    "at": (70.55, 71.78),
    "fitnet": (69.21, 71.60),
    "sp": (69.67, 71.48),
    "cc": (69.63, None),
    "vid": (70.38, 71.71),
    "rkd": (69.61, 71.48),
    "pkt": (70.34, 71.44),
    "nst": (69.60, None),
    "crd": (71.16, 71.68),
    "dkd": (71.97, None),
    "dist": (71.75, None),
    "reviewkd": (71.89, None),
    "ab": (69.47, 71.49),
    "ft": (69.84, 71.52),
    "fsp": (69.95, None),
    "itrd": (71.47, None),
    "ttm": (71.83, None),
    "wttm": (71.92, None),
    "ctkd": (71.19, None),
    "mlkd": (72.19, None),
}


def jobs() -> list[tuple[str, int]]:
    """What is to be trained: (method, seed), what matters most first. ``none`` is the student alone."""
    rest = [n for n in PRESETS if n not in (*DOZEN, "kd")]
    both = [m for n in DOZEN for m in (n, f"{n}+kd")]
    listed = [(m, seed) for seed in range(3) for m in ("none", "kd", *both)]
    listed += [(m, 0) for n in rest for m in (n, f"{n}+kd")]
    return listed + [(v, seed) for v in VARIANTS for seed in range(3 if v.startswith("kd") else 1)]


def rows() -> list[dict[str, Any]]:
    return [json.loads(line) for line in RESULTS.read_text().splitlines()] if RESULTS.exists() else []


def train_teacher(data: str, out: Path) -> Path:
    import potstill

    teacher = out / "teacher"
    if not (teacher / "student.json").exists():
        potstill.train("zoo:resnet20", pictures(data), epochs=25, out=str(out), name="teacher")
    return teacher


def pictures(source: str) -> dict[str, Any]:
    return {"source": source, "limit": LIMIT, "val": 0.02}


def small(method: str) -> bool:
    """Whether a few numbers of the teacher are all that a method reads (and of one view): maps would fill the disk."""
    presets = [PRESETS[name] for name in method.split("+")]
    return all(p.at in ("logits", "penultimate") and not p.second for p in presets)


def measure(method: str, seed: int, data: str, teacher: Path, out: Path, cache: Path | None = None) -> dict[str, Any]:
    """Train one student; its row."""
    import potstill

    row: dict[str, Any] = {"method": method, "seed": seed, "epochs": EPOCHS, "limit": LIMIT}
    try:
        preset, losses = VARIANTS.get(method, (method, {}))
        name = f"{preset}-s{seed}" + ("-v" if losses else "")
        common: dict[str, Any] = {"epochs": EPOCHS, "seed": seed, "out": str(out), "name": name, "quiet": True}
        if method == "none":
            run = potstill.train("zoo:resnet8", pictures(data), **common)
        else:
            if cache is not None and small(preset):
                common["cache"] = {"views": EPOCHS, "dtype": "float32", "dir": str(cache)}
            run = potstill.distill(
                str(teacher), "zoo:resnet8", pictures(data), preset, losses=losses, control=False, **common
            )
        student = run.results["student"]["last"]
        row |= {k: student[k]["values"][0] for k in ("top1", "nll", "agreement") if k in student}
        row["seconds"] = run.facts["seconds"]
    except PotstillError as error:
        row["refused"] = str(error).splitlines()[0]
    return row | {"git": git_state()}


def table(found: list[dict[str, Any]]) -> str:
    """The table in Markdown: test top-1, mean and standard deviation, and the paired difference to the student alone."""
    top1: dict[str, dict[int, float]] = defaultdict(dict)
    for row in found:
        if "top1" in row:
            top1[row["method"]][row["seed"]] = 100 * row["top1"]
    alone = top1["none"]

    def cell(method: str) -> str:
        got = top1.get(method, {})
        if not got:
            return next((f"{r['refused']}" for r in found if r["method"] == method and "refused" in r), "")
        values = list(got.values())
        if len(values) < 2:
            return f"{values[0]:.2f}"
        return f"{stats.summary(values)['mean']:.2f} ± {stats.summary(values)['std']:.2f}"

    def gain(method: str) -> str:
        shared = sorted({*top1.get(method, {})} & {*alone})
        if len(shared) < 2:
            return f"{top1[method][0] - alone[0]:+.2f} (1 seed)" if shared else ""
        d = stats.paired([top1[method][s] for s in shared], [alone[s] for s in shared])
        return f"{d['mean']:+.2f} [{d['low']:+.2f}, {d['high']:+.2f}]"

    def published(method: str) -> str:
        return " / ".join("–" if v is None else f"{v:.2f}" for v in PUBLISHED.get(method, (None, None)))

    lines = [
        "| method | alone | gain | with KD | gain | published, alone / with KD |",
        "|---|---|---|---|---|---|",
        f"| (labels only) | {cell('none')} | | | | {published('none')} |",
    ]
    lines.append(f"| kd | {cell('kd')} | {gain('kd')} | | | {published('kd')} |")
    rest = [n for n in PRESETS if n not in DOZEN and n != "kd"]
    rest += [v for v in VARIANTS if not v.endswith("+kd")]
    lines += [
        f"| {n} | {cell(n)} | {gain(n)} | {cell(f'{n}+kd')} | {gain(f'{n}+kd')} | {published(n)} |"
        for n in (*DOZEN, *rest)
    ]
    lines += ["", *(order(top1, suffix, place) for place, suffix in enumerate(("", "+kd")))]
    return "\n".join(lines)


def order(top1: dict[str, dict[int, float]], suffix: str, place: int) -> str:
    """How far the order of the methods agrees with the published one."""
    both = [
        (stats.summary([*top1[n + suffix].values()])["mean"], p[place])
        for n, p in PUBLISHED.items()
        if n not in ("none",) and p[place] is not None and top1.get(n + suffix)
    ]
    ranks = [np.argsort(np.argsort(column)) for column in zip(*both, strict=True)]
    rho = np.corrcoef(ranks[0], ranks[1])[0, 1] if len(both) > 2 else float("nan")
    return f"Rank correlation with the published order, {'with KD' if suffix else 'alone'}: {rho:+.2f} ({len(both)} methods)."


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--data")
    parser.add_argument("--out", type=Path, default=Path("runs/table"))
    parser.add_argument("--teacher", type=Path)
    parser.add_argument("--part", default="0/1")
    parser.add_argument("--cache", type=Path)
    parser.add_argument("--only", nargs="*", help="methods; by default all")
    parser.add_argument("--print", action="store_true")
    a = parser.parse_args()
    if not a.print:
        teacher = a.teacher or train_teacher(a.data, a.out)
        part, parts = map(int, a.part.split("/"))
        for i, (method, seed) in enumerate(jobs()):
            done = {(r["method"], r["seed"]) for r in rows() if "refused" not in r or not a.only}
            if i % parts != part or (method, seed) in done or (a.only and method not in a.only):
                continue
            row = measure(method, seed, a.data, teacher, a.out, a.cache)
            with open(RESULTS, "a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
            print(method, seed, row.get("top1", row.get("refused")), row.get("seconds"), flush=True)
    print(table(rows()))


if __name__ == "__main__":
    main()
