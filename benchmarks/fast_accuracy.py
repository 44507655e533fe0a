"""Whether students trained in bf16 (the arithmetic of the fast mode) are as good as those of float32, on real CIFAR-100.

    python -m benchmarks.fast_accuracy --data parquet:PATH --teacher runs/cifar100/teacher      # about an hour on one core

The teacher is that of benchmarks.cifar100_cpu. 10 % of the training pictures (5,000), 12 epochs, batch 64, resnet20 -> resnet8, 3
seeds; all 10,000 test pictures. Both precisions have the same seeds, weights, views and order, so the seeds are compared in
pairs. In bf16 the teacher and the student both run under autocast, and the teacher is brought to its fastest equivalent. Where
the processor has no instructions for bf16 it is computed all the same, only not faster: this is about accuracy. Each run is kept
and found again. Writes a line a seed to benchmarks/results/fast_accuracy.jsonl and prints the table.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from potstill import stats
from potstill.runs import git_state

RESULTS = Path(__file__).parent / "results" / "fast_accuracy.jsonl"
METHODS = ("kd", "at+kd", "rkd+kd")
PRECISIONS = {"float32": ["precision=32"], "bf16": ["precision=bf16", "teacher.speed=fast"]}


def trained(a: argparse.Namespace, method: str, precision: str) -> dict[str, Any]:
    """The facts of the run, which is made if it is not there."""
    home = a.out / f"{method}-{precision}"
    if not (home / "run.json").exists() or json.loads((home / "run.json").read_text())["status"] != "done":
        words = ["distill", "--data", a.data, f"data.limit={a.limit}", "data.val=0.02", "--teacher", str(a.teacher)]
        words += ["--student", "zoo:resnet8", "--method", method, "--epochs", str(a.epochs), "--no-control"]
        words += ["--seeds", str(a.seeds), "--together", str(a.seeds), "--out", str(home), *PRECISIONS[precision]]
        words = ["resume", str(home)] if (home / "run.json").exists() else words
        print("potstill", *words, flush=True)
        subprocess.run(
            [sys.executable, "-m", "potstill.cli", *words], env={**os.environ, "OMP_NUM_THREADS": "1"}, check=True
        )
    return dict(json.loads((home / "run.json").read_text()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--data", required=True)
    parser.add_argument("--teacher", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("runs/fast"))
    parser.add_argument("--limit", type=int, default=5000)
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--methods", nargs="+", default=METHODS)
    a = parser.parse_args()
    for method in a.methods:
        top1: dict[str, list[float]] = {}
        for precision in PRECISIONS:
            facts = trained(a, method, precision)
            top1[precision] = facts["results"]["student"]["last"]["top1"]["values"]
            with open(RESULTS, "a", encoding="utf-8") as file:
                for seed, value in enumerate(top1[precision]):
                    row = {"method": method, "precision": precision, "seed": seed, "top1": value}
                    row |= {"limit": a.limit, "epochs": a.epochs, "speed": facts.get("speed"), "git": git_state()}
                    row |= {"cpu": facts["environment"]["cpu"], "torch": facts["environment"]["torch"]}
                    file.write(json.dumps(row) + "\n")
        plain, fast = (stats.summary(values) for values in top1.values())
        d = stats.paired(top1["bf16"], top1["float32"])
        print(
            f"{method:<8} float32 {100 * plain['mean']:.2f} ± {100 * plain['std']:.2f}   bf16 {100 * fast['mean']:.2f} "
            f"± {100 * fast['std']:.2f}   {100 * d['mean']:+.2f} points [{100 * d['low']:+.2f}, {100 * d['high']:+.2f}]",
            flush=True,
        )


if __name__ == "__main__":
    main()
