"""Spot-adaptive distillation against its baselines on real CIFAR-100 on a CPU, at one budget.

    python -m benchmarks.spot_adaptive --data parquet:PATH --teacher RUN --out runs/spots     # hours; goes on where it stopped
    python -m benchmarks.spot_adaptive --sweep ...            # sensitivity to beta_3 and to the temperature, AT + KD, seed 0
    python -m benchmarks.spot_adaptive --print

The budget of benchmarks/methods_table.py (5,000 pictures, 5 epochs, resnet20 -> resnet8), four methods + KD, rules adaptive,
random, anti and no_gradient (the policy is moved by weight decay alone), seeds 0, 1, 2; `always` is the plain method, whose rows
are those of the methods' table (a test holds that both are equal). A line a training in benchmarks/results/spot_adaptive.jsonl,
with the mean probability of distilling at each spot by epoch.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

from benchmarks.methods_table import EPOCHS, LIMIT, pictures
from benchmarks.methods_table import rows as table_rows
from potstill import stats
from potstill.runs import git_state

RESULTS = Path(__file__).parent / "results" / "spot_adaptive.jsonl"
METHODS = ("at+kd", "crd+kd", "sp+kd", "fitnet+kd")
RULES = ("adaptive", "no_gradient", "random", "anti")
SWEEP: list[dict[str, Any]] = [
    {"weight": 0.1},
    {"weight": 10.0},
    {"temperature": 1.0},
    {"temperature": 5.0},
    {"temperature": 20.0},
    {"authors": True},
]


def jobs(sweep: bool) -> list[tuple[str, str, int, dict[str, Any]]]:
    """(method, rule, seed, other settings)."""
    if sweep:
        return [("at+kd", "adaptive", 0, more) for more in SWEEP]
    return [(m, rule, seed, {}) for seed in range(3) for m in METHODS for rule in RULES]


def rows() -> list[dict[str, Any]]:
    return [json.loads(line) for line in RESULTS.read_text().splitlines()] if RESULTS.exists() else []


def key(row: dict[str, Any]) -> str:
    return json.dumps([row["method"], row["rule"], row["seed"], row["settings"]])


def measure(
    method: str, rule: str, seed: int, more: dict[str, Any], data: str, teacher: Path, out: Path
) -> dict[str, Any]:
    """Train one student; its row."""
    import potstill

    name = "-".join([method, rule, str(seed), *(f"{k}{v}" for k, v in more.items())])
    run = potstill.distill(
        str(teacher), "zoo:resnet8", pictures(data), method, control=False, epochs=EPOCHS, seed=seed,
        spots={"rule": rule, **more}, out=str(out), name=name, quiet=True,
    )  # fmt: skip
    lines = (run.path / f"student-s{seed}" / "metrics.jsonl").read_text().splitlines()
    return {
        "method": method,
        "rule": rule,
        "seed": seed,
        "settings": more,
        "top1": run.results["student"]["last"]["top1"]["values"][0],
        "decisions": [json.loads(line).get("decisions") for line in lines],
        "seconds": run.facts["seconds"],
        "epochs": EPOCHS,
        "limit": LIMIT,
        "git": git_state(),
    }


def table() -> str:
    """The comparison in Markdown: test top-1 by rule, and each rule's paired difference to ``always``."""
    found = rows()
    lines = ["| method | always | " + " | ".join(RULES) + " |", "|---" * (len(RULES) + 2) + "|"]
    for method in METHODS:
        always = {r["seed"]: 100 * r["top1"] for r in table_rows() if r["method"] == method and "top1" in r}
        cells = [mean(always)]
        for rule in RULES:
            got = {
                r["seed"]: 100 * r["top1"]
                for r in found
                if (r["method"], r["rule"], r["settings"]) == (method, rule, {})
            }
            shared = sorted({*got} & {*always})
            cell = mean(got)
            if len(shared) > 1:
                d = stats.paired([got[s] for s in shared], [always[s] for s in shared])
                cell += f" ({d['mean']:+.2f} [{d['low']:+.2f}, {d['high']:+.2f}])"
            cells.append(cell)
        lines.append(f"| {method} | " + " | ".join(cells) + " |")
    lines += ["", "Probability of distilling at each spot after the first and the last epoch, mean over seeds:", ""]
    lines += ["| method | rule | " + "spots |", "|---|---|---|"]
    for method in METHODS:
        for rule in ("adaptive", "no_gradient"):
            got = [r["decisions"] for r in found if (r["method"], r["rule"], r["settings"]) == (method, rule, {})]
            if got:
                shown = (
                    f"{spot} {sum(d[0][spot] for d in got) / len(got):.2f} → {sum(d[-1][spot] for d in got) / len(got):.2f}"
                    for spot in got[0][0]
                )
                lines.append(f"| {method} | {rule} | {'; '.join(shown)} |")
    swept = [r for r in found if r["settings"]]
    if swept:
        lines += ["", "| at+kd, adaptive, seed 0 | top-1 |", "|---|---|"]
        lines += [f"| {json.dumps(r['settings'])} | {100 * r['top1']:.2f} |" for r in swept]
    return "\n".join(lines)


def mean(values: dict[int, float]) -> str:
    if len(values) < 2:
        return "".join(f"{v:.2f}" for v in values.values())
    s = stats.summary([*values.values()])
    return f"{s['mean']:.2f} ± {s['std']:.2f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--data")
    parser.add_argument("--teacher", type=Path)
    parser.add_argument("--out", type=Path, default=Path("runs/spots"))
    parser.add_argument("--part", default="0/1")
    parser.add_argument("--sweep", action="store_true")
    parser.add_argument("--print", action="store_true")
    a = parser.parse_args()
    part, parts = map(int, a.part.split("/"))
    for i, (method, rule, seed, more) in enumerate([] if a.print else jobs(a.sweep)):
        known = {key(r) for r in rows()}
        wanted = key({"method": method, "rule": rule, "seed": seed, "settings": more})
        if i % parts != part or wanted in known:
            continue
        row = measure(method, rule, seed, more, a.data, a.teacher, a.out)
        with open(RESULTS, "a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        print(method, rule, seed, more, row["top1"], row["seconds"], flush=True)
    print(table())


if __name__ == "__main__":
    main()
