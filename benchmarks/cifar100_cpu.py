"""Real CIFAR-100 through the command line on a CPU: a teacher, a student alone, KD, KD + AT; 3 seeds.

    python -m benchmarks.cifar100_cpu --data parquet:PATH --out runs/cifar100       # about half an hour on two cores

10 % of the training pictures (5,000: 50 a class), 12 epochs, batch 64; all 10,000 test pictures. Teacher resnet20 (25 epochs of
the same pictures), student resnet8. Published weights. Writes a line a seed to benchmarks/results/cifar100_cpu.jsonl and prints
the table. This is small: it shows that the whole job works on real data and what it brings here, not the numbers of papers.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

from potstill import stats
from potstill.runs import git_state

RESULTS = Path(__file__).parent / "results" / "cifar100_cpu.jsonl"


def potstill(*arguments: str) -> subprocess.Popen[bytes]:
    """A command of potstill on one thread, begun."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    print("potstill", *arguments, flush=True)
    return subprocess.Popen([sys.executable, "-m", "potstill.cli", *arguments], env=environment)


def wait(*processes: subprocess.Popen[bytes]) -> None:
    """All must end well."""
    codes = [p.wait() for p in processes]
    if any(codes):
        raise SystemExit("a command failed")


def facts(path: Path) -> dict[str, Any]:
    return dict(json.loads((path / "run.json").read_text()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--data", required=True)
    parser.add_argument("--out", type=Path, default=Path("runs/cifar100"))
    parser.add_argument("--limit", type=int, default=5000)
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--teacher-epochs", type=int, default=25)
    parser.add_argument("--seeds", type=int, default=3)
    a = parser.parse_args()
    shared = ["--data", a.data, f"data.limit={a.limit}", "data.val=0.02", "--out", str(a.out)]
    names = {name: a.out / name for name in ("teacher", "kd", "at+kd")}
    if not (names["teacher"] / "student.json").exists():
        wait(
            potstill(
                "train", *shared, "--model", "zoo:resnet20", "--epochs", str(a.teacher_epochs), "--name", "teacher"
            )
        )
    student = [
        "--teacher",
        str(names["teacher"]),
        "--student",
        "zoo:resnet8",
        "--epochs",
        str(a.epochs),
        "--seeds",
        str(a.seeds),
    ]
    wait(
        potstill("distill", *shared, *student, "--method", "kd", "--name", "kd"),
        potstill("distill", *shared, *student, "--method", "at+kd", "--name", "at+kd", "--no-control"),
    )
    kd, both, teacher = facts(names["kd"]), facts(names["at+kd"]), facts(names["teacher"])
    top1 = {
        "alone": kd["results"]["control"]["last"]["top1"]["values"],
        "kd": kd["results"]["student"]["last"]["top1"]["values"],
        "at+kd": both["results"]["student"]["last"]["top1"]["values"],
    }
    machine = {
        "cpu": kd["environment"]["cpu"],
        "cores": os.cpu_count(),
        "torch": kd["environment"]["torch"],
        "python": platform.python_version(),
    }
    with open(RESULTS, "a", encoding="utf-8") as file:
        for name, values in {**top1, "teacher": teacher["results"]["student"]["last"]["top1"]["values"]}.items():
            for seed, value in enumerate(values):
                row = {
                    "run": name,
                    "seed": seed,
                    "top1": value,
                    "limit": a.limit,
                    "epochs": a.epochs,
                    **machine,
                    "git": git_state(),
                }
                file.write(json.dumps(row) + "\n")
    print(f"\nteacher resnet20 {100 * kd['results']['teacher']['test']['top1']:.2f}")
    for name, values in top1.items():
        s = stats.summary(values)
        line = f"resnet8 {name:<6} {100 * s['mean']:.2f} ± {100 * s['std']:.2f}"
        if name != "alone":
            d = stats.paired(values, top1["alone"])
            verdict = "" if d["significant"] else ", not significant"
            line += f"   {100 * d['mean']:+.2f} points [{100 * d['low']:+.2f}, {100 * d['high']:+.2f}]{verdict}"
        print(line)


if __name__ == "__main__":
    main()
