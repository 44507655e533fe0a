"""How a cut net learns back best, held against the uncut net trained on for as long: CIFAR-100 on a CPU.

    python -m benchmarks.compress_again --data parquet:PATH --teacher RUN --out runs/compress
    python -m benchmarks.compress_again ... --only half:dist     # one row; --try: an epoch of 320 pictures, not kept
    python -m benchmarks.compress_again --print

RUN: the resnet20 of benchmarks/compress_table.py, whose cut nets in --out are taken, or made where they are not there. Each of
the half, the quarter and the uncut net learns for 5 epochs at a fifth of the learning rate, seeds 0, 1, 2, from the uncut one
by several methods. "Within a point after recovery" is fair only against an uncut net that had the same 5 epochs more: labels
alone too. Labels and kd of the cut nets are those of compress_table. About 90 minutes of one core; a row at a time, and inside
a row from the last checkpoint: the same command goes on. Lines go to benchmarks/results/compress_table.jsonl.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from benchmarks.compress_table import CUTS, EPOCHS, SEEDS, keep, rows
from potstill import stats

ONE_ONE = {"losses.kd.weight": 1, "losses.ce.weight": 1}
METHODS: dict[str, dict[str, Any]] = {
    "kd": {"method": "kd"},
    "kd 1:1": {"method": "kd", "settings": ONE_ONE},
    "dist": {"method": "dist"},
    "dist+kd": {"method": "dist+kd"},
}
"""Ways to learn back; `kd` has the published weights, 0.9 and 0.1, the last one 1 for each loss but DIST's own."""
AGAIN = [(net, way) for net in ("uncut", *CUTS) for way in METHODS if (net, way) not in {(n, "kd") for n in CUTS}]
"""What is done; the cut nets by `kd` and from labels are in the first table."""


def again(net: str, way: str, teacher: str, data: str, out: Path, tiny: bool = False) -> list[dict[str, Any]]:
    """A cut net, or the uncut one, trained on by a method; in the way `kd` also from the labels alone, same steps and views."""
    from potstill.compress.chain import compress
    from potstill.compress.stage import make

    start = Path(teacher) if net == "uncut" else out / net / "1-prune"
    if not start.exists():
        compress(teacher, out / net, stages=[make("prune", macs=CUTS[net])], data=data)
    epochs, seeds = (1, 1) if tiny else (EPOCHS, SEEDS)
    cache = {"cache.on": True, "cache.views": epochs, "cache.dtype": "float32", "cache.dir": str(out / "cache")}
    more = METHODS[way].get("settings", {})
    learn = make(
        "recover",
        epochs=epochs,
        method=METHODS[way]["method"],
        control=(net, way) == ("uncut", "kd"),
        settings={"seeds": seeds, **cache, **more},
    )
    small = {"data.limit": 320} if tiny else {}
    home = out / "again" / f"{net}-{way.replace(' ', '-').replace(':', '-')}{'-try' if tiny else ''}"
    done = compress(str(start), home, stages=[learn], teacher=teacher, data=data, config=small)
    facts = done.facts["stages"][1]["facts"]
    found = []
    for name, of in ((way, facts["distilled"]), ("labels", facts["labels"])):
        last = {k: v["values"] for k, v in (of or {"last": {}})["last"].items() if v is not None}
        found += [
            {"net": net, "way": name, "seed": seed, **{k: v[seed] for k, v in last.items()}, "macs": facts["macs"]}
            for seed in range(seeds if last else 0)
        ]
    return found


def work_off(data: str, teacher: str, out: Path, only: str | None, tiny: bool) -> None:
    """Do what is not done of :data:`AGAIN`; a tiny one is printed and not kept."""
    done = {r["job"] for r in rows()}
    for net, way in AGAIN:
        job = f"again {net}:{way}"
        if (only and only != f"{net}:{way}") or (job in done and not tiny):
            continue
        found = again(net, way, teacher, data, out, tiny)
        if tiny:
            print(job, [(r["way"], r["seed"], round(100 * r["top1"], 2)) for r in found], flush=True)
        else:
            keep(job, found)


def table(found: list[dict[str, Any]]) -> str:
    """Markdown: a cut net and the uncut one, each trained on for as long, by the way in which they learned."""
    by: dict[tuple[str, str], dict[int, float]] = {}
    for r in found:
        if r["job"] in CUTS or r["job"].startswith("again "):
            by.setdefault((r["net"], "kd" if r["way"] == "distilled" else r["way"]), {})[r["seed"]] = 100 * r["top1"]

    def mean(net: str, way: str) -> str:
        s = stats.summary([*by.get((net, way), {}).values()]) if by.get((net, way)) else None
        return "" if s is None else f"{s['mean']:.2f}" + (f" ± {s['std']:.2f}" if s["std"] is not None else "")

    def less(one: tuple[str, str], other: tuple[str, str]) -> str:
        shared = sorted(by.get(one, {}).keys() & by.get(other, {}).keys())
        if len(shared) < 2:
            return ""
        d = stats.paired(*([by[key][s] for s in shared] for key in (one, other)))
        return f"{d['mean']:+.2f} [{d['low']:+.2f}, {d['high']:+.2f}]"

    nets = ("uncut", *CUTS)
    lines = [
        f"| learned by | {' | '.join([*nets, *(f'{n} - labels' for n in nets), *(f'{n} - uncut' for n in CUTS)])} |",
        f"|---|{'--:|' * (2 * len(nets) + len(CUTS))}",
    ]
    for way in ("labels", *METHODS):
        cells = [mean(n, way) for n in nets]
        cells += [less((n, way), (n, "labels")) if way != "labels" else "" for n in nets]
        cells += [less((n, way), ("uncut", way)) for n in CUTS]
        lines.append(f"| {way} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data")
    parser.add_argument("--teacher")
    parser.add_argument("--out", type=Path, default=Path("runs/compress"))
    parser.add_argument("--only", metavar="NET:WAY", choices=[f"{n}:{w}" for n, w in AGAIN])
    parser.add_argument("--try", action="store_true", dest="tiny", help="an epoch of 320 pictures, one seed, not kept")
    parser.add_argument("--print", action="store_true")
    a = parser.parse_args()
    if not a.print:
        if not (a.data and a.teacher):
            parser.error("--data and --teacher, or --print")
        work_off(a.data, a.teacher, a.out, a.only, a.tiny)
    if not a.tiny:
        print(table(rows()))


if __name__ == "__main__":
    main()
