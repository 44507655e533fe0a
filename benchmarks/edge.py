"""A trained net as files for a device: accuracy, agreement, size and latency of float and quantized ONNX in ONNX Runtime.

    python -m benchmarks.edge RUN                         # int8, weights only, bf16: about two minutes of one core
    python -m benchmarks.edge RUN --train 150 --seeds 3   # 4 bits: none, labels (QAT) and teacher (QAD), equal steps

RUN is a run directory whose data are there. All files are measured in one process, batch 1, one thread, taking turns; what is
given is the median of processor time, and of wall time. Accuracies are on the whole test data. Writes a line a file to
benchmarks/results/edge.jsonl.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path

from rich.console import Console as Rich

from potstill.commands.edge import _work
from potstill.compress.export import Export
from potstill.compress.quantize import Quantize
from potstill.compress.runtimes import Runs, open_artefact
from potstill.compress.verify import measure, table
from potstill.runs import environment, git_state, now

RESULTS = Path(__file__).parent / "results" / "edge.jsonl"


def variants(train: int, seeds: int) -> dict[str, Quantize | None]:
    """What is measured, by name; None is the float file."""
    if not train:
        plain = {name: Quantize(name) for name in ("int8", "int8-weights", "int4-weights", "bf16")}
        return {"float32": None, **plain, "int8 per tensor": Quantize("int8", per_channel=False)}
    made: dict[str, Quantize | None] = {"float32": None, "int4 untrained": Quantize("int4")}
    for seed in range(seeds):
        made[f"int4 QAT seed {seed}"] = Quantize("int4", train=train, distil=False, seed=seed)
        made[f"int4 QAD seed {seed}"] = Quantize("int4", train=train, seed=seed)
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run")
    parser.add_argument("--train", type=int, default=0)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=100)
    given = parser.parse_args()
    work = _work(given.run, None, False, True)
    artefacts: list[Runs] = []
    seconds = {}
    with tempfile.TemporaryDirectory() as folder:
        for i, (name, quantize) in enumerate(variants(given.train, given.seeds).items()):
            start, work.before = time.process_time(), {}
            for stage in filter(None, (quantize, Export("onnx"))):
                work.folder = Path(folder) / f"{i}-{stage.kind}"
                work.folder.mkdir()
                stage.run(work)
                work.before[work.folder.name] = work.folder
            artefact = open_artefact(
                work.folder / (f"student.{quantize.precision}.onnx" if quantize else "student.onnx")
            )
            artefact.name, seconds[name] = name, time.process_time() - start
            artefacts.append(artefact)
        rows = measure(work.net, artefacts, work.ready, repeats=given.repeats)
    Rich().print(table(rows))
    facts = {
        "when": now(),
        "git": git_state(),
        "environment": environment("cpu"),
        "net": work.net.spec,
        "steps": given.train,
    }
    RESULTS.parent.mkdir(exist_ok=True)
    with open(RESULTS, "a") as file:
        for row in rows:
            file.write(json.dumps({**row, "seconds": seconds.get(row["name"]), **facts}) + "\n")


if __name__ == "__main__":
    main()
