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

os.environ.setdefault("OMP_NUM_THREADS", "1")

from potstill import stats
from potstill.errors import PotstillError
from potstill.methods import PRESETS
from potstill.runs import git_state

RESULTS = Path(__file__).parent / "results" / "methods_table.jsonl"
DOZEN = ("at", "fitnet", "sp", "cc", "vid", "rkd", "pkt", "nst", "crd", "dkd", "dist", "reviewkd")
EPOCHS, LIMIT = 5, 5000


def jobs() -> list[tuple[str, int]]:
    """What is to be trained: (method, seed), what matters most first. ``none`` is the student alone."""
    rest = [n for n in PRESETS if n not in (*DOZEN, "kd")]
    both = [m for n in DOZEN for m in (n, f"{n}+kd")]
    listed = [(m, seed) for seed in range(3) for m in ("none", "kd", *both)]
    return listed + [(m, 0) for n in rest for m in (n, f"{n}+kd")]


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
        name = f"{method}-s{seed}"
        common: dict[str, Any] = {"epochs": EPOCHS, "seed": seed, "out": str(out), "name": name, "quiet": True}
        if method == "none":
            run = potstill.train("zoo:resnet8", pictures(data), **common)
        else:
            if cache is not None and small(method):
                common["cache"] = {"views": EPOCHS, "dtype": "float32", "dir": str(cache)}
            run = potstill.distill(str(teacher), "zoo:resnet8", pictures(data), method, control=False, **common)
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
            return next((f"refused: {r['refused']}" for r in found if r["method"] == method and "refused" in r), "")
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

    lines = [
        "| method | alone | gain | with KD | gain |",
        "|---|---|---|---|---|",
        f"| (labels only) | {cell('none')} | | | |",
    ]
    lines.append(f"| kd | {cell('kd')} | {gain('kd')} | | |")
    rest = [n for n in PRESETS if n not in DOZEN and n != "kd"]
    lines += [f"| {n} | {cell(n)} | {gain(n)} | {cell(f'{n}+kd')} | {gain(f'{n}+kd')} |" for n in (*DOZEN, *rest)]
    return "\n".join(lines)


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
