"""Teacher -> student -> pruned -> int8 on real CIFAR-100 on a CPU, and what each step would be without a teacher.

    python -m benchmarks.compress_table --data parquet:PATH --teacher RUN --student RUN --out runs/compress
    python -m benchmarks.compress_table --print

RUN: resnet20, 25 epochs of 5,000 pictures, and the resnet8 (3 seeds) that it taught: those of benchmarks/cifar100_cpu.py. The
resnet20 is cut to half and to a quarter of its MACs; each cut net learns again for 5 epochs from its own uncut self and, beside
it, from the labels, seeds 0, 1, 2. The distilled half is then quantized: without training, from the labels, and with the teacher
watching, equal steps. All files run in ONNX Runtime on all 10,000 test pictures; latencies at batch 1, one thread, taking turns.
About 35 minutes of one core. A line a result in benchmarks/results/compress_table.jsonl; what is there is not done again.
Other ways of learning back, and the uncut net trained on for as long: benchmarks/compress_again.py.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

from potstill import stats
from potstill.runs import environment, git_state, now

RESULTS = Path(__file__).parent / "results" / "compress_table.jsonl"
CUTS = {"half": 0.5, "quarter": 0.25}
EPOCHS, STEPS, SEEDS = 5, 60, 3
WAYS: dict[str, dict[str, Any]] = {
    "float": {},
    "int8 PTQ": {"precision": "int8"},
    "int8 QAT": {"precision": "int8", "train": STEPS, "distil": False},
    "int8 QAD": {"precision": "int8", "train": STEPS},
    "int4 PTQ": {"precision": "int4"},
    "int4 QAT": {"precision": "int4", "train": STEPS, "distil": False},
    "int4 QAD": {"precision": "int4", "train": STEPS},
    "int4 QAD by the resnet20": {"precision": "int4", "train": STEPS},
}
"""What becomes of a float net; the teacher of QAD is the float net itself where nothing else is said."""


def rows() -> list[dict[str, Any]]:
    return [json.loads(line) for line in RESULTS.read_text().splitlines()] if RESULTS.exists() else []


def keep(job: str, found: Iterable[Mapping[str, Any]]) -> None:
    facts = {"when": now(), "git": git_state(), "environment": environment("cpu")}
    RESULTS.parent.mkdir(exist_ok=True)
    with open(RESULTS, "a", encoding="utf-8") as file:
        file.writelines(json.dumps({"job": job, **row, **facts}) + "\n" for row in found)
    print(now(), job, flush=True)


def cut(name: str, teacher: str, data: str, out: Path) -> list[dict[str, Any]]:
    """The resnet20 with fewer channels: as it is, with its statistics measured anew, taught, and from labels."""
    from potstill.compress.chain import compress
    from potstill.compress.stage import make

    cache = {"cache.on": True, "cache.views": EPOCHS, "cache.dtype": "float32", "cache.dir": str(out / "cache")}
    learn = make("recover", epochs=EPOCHS, settings={"seeds": SEEDS, **cache})
    done = compress(teacher, out / name, stages=[make("prune", macs=CUTS[name]), learn], data=data)
    first, pruned, again = (stage["facts"] for stage in done.facts["stages"])

    def row(way: str, seed: int, facts: Mapping[str, Any], of: Mapping[str, Any] = pruned) -> dict[str, Any]:
        return {"net": name, "way": way, "seed": seed, **facts} | {k: of[k] for k in ("parameters", "macs", "bytes")}

    found = [row("uncut", 0, first["test"], first), row("cut", 0, pruned["cut"]["test"])]
    found.append(row("BatchNorm", 0, pruned["test"]))
    for way, of in (("distilled", again["distilled"]), ("labels", again["labels"])):
        last = {k: v["values"] for k, v in of["last"].items() if v is not None}
        found += [row(way, seed, {k: v[seed] for k, v in last.items()}) for seed in range(SEEDS)]
    return found


def files(
    name: str, seed: int, net: Path, ways: Iterable[str], teacher: str, data: str, out: Path
) -> list[dict[str, Any]]:
    """A float net and what quantization makes of it, each as an ONNX file in ONNX Runtime."""
    from potstill.commands.edge import _work
    from potstill.compress.export import Export
    from potstill.compress.quantize import Quantize
    from potstill.compress.runtimes import open_artefact
    from potstill.compress.stage import Stage
    from potstill.compress.verify import measure
    from potstill.models.resolve import load_student

    work, made = _work(str(net), data, False, True), []
    large = load_student(teacher)
    for way in ways:
        file = out / "files" / f"{name}-s{seed} {way}.onnx"
        if not file.exists():
            work.before, work.teacher = {}, large if way.endswith("resnet20") else work.net
            quantize = [Quantize(seed=seed, **WAYS[way])] if WAYS[way] else []
            stages: list[Stage] = [*quantize, Export("onnx")]
            for stage in stages:
                work.folder = out / "half-made" / f"{name}-{seed}" / way.replace(" ", "-") / stage.kind
                work.folder.mkdir(parents=True, exist_ok=True)
                stage.run(work)
                work.before[f"0-{stage.kind}"] = work.folder
            file.parent.mkdir(exist_ok=True)
            suffix = f"student.{WAYS[way]['precision']}.onnx" if WAYS[way] else "student.onnx"
            (work.folder / suffix).rename(file)
        artefact = open_artefact(file)
        artefact.name = way
        made.append(artefact)
    found = [r for r in measure(work.net, made, work.ready, repeats=5) if r["name"] != "student"]
    return [{"net": name, "way": r["name"], "seed": seed, "bytes": r["bytes"], **r["test"]} for r in found]


def speed(out: Path) -> list[dict[str, Any]]:
    """Milliseconds of all kinds of files, in turns: processor time, for other work runs beside."""
    from potstill.compress.runtimes import latencies, open_artefact

    names = [(n, w) for n in ("resnet20", "resnet8", *CUTS) for w in ("float", "int8 PTQ")] + [("half", "int4 QAD")]
    times = latencies([open_artefact(out / "files" / f"{n}-s0 {w}.onnx") for n, w in names], repeats=400)
    return [{"net": n, "way": w, **t._asdict()} for (n, w), t in zip(names, times, strict=True)]


def work_off(data: str, teacher: str, student: str, out: Path) -> None:
    """Do what is not done."""
    done = {r["job"] for r in rows()}
    for name in CUTS:
        if name not in done:
            keep(name, cut(name, teacher, data, out))
    plain = ("float", "int8 PTQ")
    nets = [("half", s, out / f"half/2-recover/run/student-s{s}", tuple(WAYS)) for s in range(SEEDS)]
    nets += [("quarter", s, out / f"quarter/2-recover/run/student-s{s}", plain) for s in range(SEEDS)]
    nets += [("resnet20", 0, Path(teacher), plain)]
    nets += [("resnet8", s, Path(student) / f"student-s{s}", plain) for s in range(SEEDS)]
    for name, seed, net, ways in nets:
        if (job := f"{name} files {seed}") not in done:
            keep(job, files(name, seed, net, ways, teacher, data, out))
    if "speed" not in done:
        keep("speed", speed(out))


def table(found: list[dict[str, Any]]) -> str:
    """Two tables in Markdown: what brings a cut net back, and the files."""

    def cell(net: str, way: str, key: str = "top1", files: bool = False) -> str:
        chosen = [
            r for r in found if r["net"] == net and r["way"] == way and ("files" in r["job"]) == files and key in r
        ]
        s = stats.summary([100 * r[key] for r in chosen]) if chosen else None
        return "" if s is None else f"{s['mean']:.2f}" + (f" ± {s['std']:.2f}" if s["std"] is not None else "")

    def gain(net: str, way: str, other: str, files: bool = False) -> str:
        both = [
            {
                r["seed"]: 100 * r["top1"]
                for r in found
                if (r["net"], r["way"]) == (net, w) and ("files" in r["job"]) == files
            }
            for w in (way, other)
        ]
        shared = sorted(both[0].keys() & both[1].keys())
        if len(shared) < 2:
            return ""
        d = stats.paired(*([b[s] for s in shared] for b in both))
        return f"{d['mean']:+.2f} [{d['low']:+.2f}, {d['high']:+.2f}]"

    def of(net: str, way: str, key: str, scale: float, digits: int = 0) -> str:
        values = [r[key] for r in found if r["net"] == net and r["way"] == way and key in r and r.get("seed", 0) == 0]
        return f"{values[-1] / scale:,.{digits}f}" if values else ""

    lines = [
        "| net | MACs | parameters | cut | BatchNorm | labels | teacher | teacher - labels |",
        "|---|--:|--:|--:|--:|--:|--:|--:|",
    ]
    lines += [
        f"| resnet20, {n} | {of(n, 'cut', 'macs', 1e6, 1)} M | {of(n, 'cut', 'parameters', 1e3)} k | "
        + " | ".join(cell(n, w) for w in ("cut", "BatchNorm", "labels", "distilled"))
        + f" | {gain(n, 'distilled', 'labels')} |"
        for n in CUTS
    ]
    lines += [
        "",
        "| net | file | test top-1 | against its float file | agree | kB | ms |",
        "|---|---|--:|--:|--:|--:|--:|",
    ]
    for net in ("resnet20", "resnet8", *CUTS):
        for way in WAYS:
            if top1 := cell(net, way, files=True):
                less = gain(net, way, "float", files=True) if way != "float" else ""
                size, ms = of(net, way, "bytes", 1e3), of(net, way, "cpu_ms", 1, 2)
                lines.append(
                    f"| {net} | {way} | {top1} | {less} | {cell(net, way, 'agreement', True)} | {size} | {ms} |"
                )
    pairs = [("int8 QAD", "int8 QAT"), ("int4 QAD", "int4 QAT"), ("int4 QAD by the resnet20", "int4 QAT")]
    return "\n".join([*lines, "", *(f"{a} - {b}: {gain('half', a, b, files=True)}" for a, b in pairs)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data")
    parser.add_argument("--teacher")
    parser.add_argument("--student")
    parser.add_argument("--out", type=Path, default=Path("runs/compress"))
    parser.add_argument("--print", action="store_true")
    a = parser.parse_args()
    if not a.print:
        if not (a.data and a.teacher and a.student):
            parser.error("--data, --teacher and --student, or --print")
        work_off(a.data, a.teacher, a.student, a.out)
    print(table(rows()))


if __name__ == "__main__":
    main()
