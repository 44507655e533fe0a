"""A cached teacher of M views, and a faster teacher, against live teaching on real CIFAR-100 on a CPU, at one budget.

    python -m benchmarks.views --data parquet:PATH --teacher RUN --out runs/views     # 15 rows; goes on where it stopped
    python -m benchmarks.views --fast ...                    # and the rows of bf16, where the processor has it
    python -m benchmarks.views --print

KD at its published weights, resnet20 -> resnet8, 1,000 training pictures of CIFAR-100 (of the 5,000 that the teacher of
benchmarks/methods_table.py has seen), 32 epochs, batch 64, all 10,000 test pictures, seeds 0, 1, 2. So long that a student sees
each of 16 views twice, each of 4 eight times, and the one of 1 thirty-two times; live teaching shows it 32 views.

live      the teacher asked each time, bit for bit as given (`teacher.speed: exact`)
M views   the same teacher, kept in float16 (`cache.views: M`), each run with a fresh cache that it fills itself
equal     live, `teacher.speed: equal`: batch norms folded, channels-last, as far as that was measured to pay
fast      live, `teacher.speed: fast` and the student in bf16 (`precision: bf16`)

A line a training in benchmarks/results/views.jsonl; `cpu` is the processor's seconds of the whole run, its tests included; null
where the run was interrupted, and went on when the command was given again.
`--part 0/2` and `--part 1/2` share the work between two processes; `--rows 1` stops after one.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch

from potstill import stats
from potstill.runs import git_state
from potstill.teacher import has_bf16

RESULTS = Path(__file__).parent / "results" / "views.jsonl"
LIMIT, EPOCHS, SEEDS = 1000, 32, 3
VARIANTS: dict[str, dict[str, Any]] = {
    "live": {},
    **{f"{m} view{'s' * (m > 1)}": {"cache": {"views": m}} for m in (1, 4, 16)},
    "equal": {"teacher": {"speed": "equal"}},
    "fast": {"teacher": {"speed": "fast"}, "precision": "bf16"},
}


def jobs(fast: bool) -> list[tuple[str, int]]:
    """What is to be trained: (variant, seed)."""
    return [(name, seed) for seed in range(SEEDS) for name in VARIANTS if name != "fast" or fast]


def rows() -> list[dict[str, Any]]:
    return [json.loads(line) for line in RESULTS.read_text().splitlines()] if RESULTS.exists() else []


def measure(variant: str, seed: int, data: str, teacher: Path, out: Path) -> dict[str, Any]:
    """Train one student; its row."""
    import potstill

    settings: dict[str, Any] = {"precision": "32", **VARIANTS[variant]}
    settings["teacher"] = {"model": str(teacher), "speed": "exact", **settings.get("teacher", {})}
    name, cache = f"{variant.replace(' ', '-')}-s{seed}", out / "cache" / f"{variant.split()[0]}-s{seed}"
    if "cache" in settings:
        settings["cache"] = {**settings["cache"], "dir": str(cache)}
    began, torn = time.process_time(), (out / name / "run.json").exists()
    run = potstill.resume(out / name, quiet=True) if torn else potstill.distill(
        student="zoo:resnet8", data={"source": data, "limit": LIMIT, "val": 0.05}, method="kd", control=False,
        epochs=EPOCHS, seed=seed, out=str(out), name=name, quiet=True, **settings,
    )  # fmt: skip
    student = run.results["student"]["last"]
    row: dict[str, Any] = {"variant": variant, "seed": seed, "epochs": EPOCHS, "limit": LIMIT}
    row |= {k: student[k]["values"][0] for k in ("top1", "nll", "agreement") if k in student}
    row |= {"cpu": None if torn else round(time.process_time() - began, 1), "seconds": run.facts["seconds"]}
    row["teacher"] = run.facts.get("speed", [])  # what was done to it
    shutil.rmtree(cache, ignore_errors=True)
    return row | {"git": git_state()}


def table() -> str:
    """In Markdown: mean and standard deviation of each variant, and its difference to live teaching, paired by seed."""
    found = {(r["variant"], r["seed"]): r for r in rows()}

    def of(variant: str, key: str, scale: float) -> dict[int, float]:
        return {seed: scale * r[key] for (name, seed), r in found.items() if name == variant and r[key] is not None}

    lines = ["| teacher | test top-1 | against live | agreement with the teacher | CPU s |", "|---|--:|--:|--:|--:|"]
    live = of("live", "top1", 100)
    for variant in VARIANTS:
        if not (top1 := of(variant, "top1", 100)):
            continue
        shared, gain = sorted({*top1} & {*live}), ""
        if variant != "live" and len(shared) > 1:
            d = stats.paired([top1[s] for s in shared], [live[s] for s in shared])
            gain = f"{d['mean']:+.2f} [{d['low']:+.2f}, {d['high']:+.2f}]"
        cells = (spread(of(variant, key, scale)) for key, scale in (("agreement", 100), ("cpu", 1)))
        lines.append(f"| {variant} | {spread(top1)} | {gain} | {' | '.join(cells)} |")
    return "\n".join(lines)


def spread(values: dict[int, float]) -> str:
    if not values:
        return ""
    s = stats.summary([*values.values()])
    return f"{s['mean']:.2f}" + (f" ± {s['std']:.2f}" if s["n"] > 1 else "")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data")
    parser.add_argument("--teacher", type=Path)
    parser.add_argument("--out", type=Path, default=Path("runs/views"))
    parser.add_argument("--part", default="0/1")
    parser.add_argument("--rows", type=int, help="stop after so many; by default when all are there")
    parser.add_argument("--only", nargs="*", help="variants; by default all but fast")
    parser.add_argument("--fast", action="store_true")
    parser.add_argument("--print", action="store_true")
    a = parser.parse_args()
    part, parts = map(int, a.part.split("/"))
    if a.fast and not has_bf16(torch.device("cuda" if torch.cuda.is_available() else "cpu")):
        raise SystemExit("--fast: this processor has no instructions for bf16")
    mine = [job for i, job in enumerate(jobs(a.fast)) if i % parts == part and (not a.only or job[0] in a.only)]
    known = {(r["variant"], r["seed"]) for r in rows()}
    for variant, seed in [] if a.print else [job for job in mine if job not in known][: a.rows]:
        row = measure(variant, seed, a.data, a.teacher, a.out)
        with open(RESULTS, "a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        print(variant, seed, row["top1"], row["cpu"], row["seconds"], flush=True)
    print(table())


if __name__ == "__main__":
    main()
