"""Kill a run at random moments, resume it each time, and compare it with the run that was left alone.

    python -m benchmarks.kill --kills 24      # 12 with workers=0, 12 with workers=2, and the negative control

A run here is `potstill distill` of the digits (KD and a FitNets adapter, a student with dropout and BatchNorm), a checkpoint
every few steps. SIGKILL comes at a random moment after the run directory is there: in a step, in a checkpoint, at the end of
an epoch. The finished run must have the same weights (sha256), the same metrics and the same results, bit for bit. In the
negative control the random state is not restored: it must differ, or the comparison could not fail.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import multiprocessing
import random
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
STUDENT = f"{ROOT}/examples/dropout_net.py:make"
SETTINGS = {
    "data.source": "digits",
    "student.model": STUDENT,
    "method": "fitnet+kd",
    "losses.fitnet.at": ["0", "0"],
    "losses.fitnet.weight": 1.0,
    "control": False,
    "trust_code": True,  # the teacher is of examples/dropout_net.py too
    "epochs": 4,
    "save_steps": 7,
    "track": [],
}


def start(folder: str, teacher: str, workers: int) -> None:
    """The run, in a process of its own."""
    import torch

    from potstill.config.load import resolve
    from potstill.console import Console
    from potstill.run import distill

    torch.set_num_threads(1)
    multiprocessing.set_start_method(
        "fork", force=True
    )  # workers notice the death of their parent, not of a fork server
    flags = {**SETTINGS, "teacher.model": teacher, "data.workers": workers, "out": folder, "name": "run"}
    distill(resolve([], [], flags, "distill").config, console=Console(quiet=True))


def resume(folder: str, negative: bool) -> None:
    """Go on with it; in the negative control without the random state."""
    import potstill.engine
    from potstill.console import Console
    from potstill.run import resume as go_on

    multiprocessing.set_start_method("fork", force=True)
    if negative:
        potstill.engine.set_rng_state = lambda state: None
    go_on(f"{folder}/run", console=Console(quiet=True))


def outcome(folder: Path) -> dict[str, Any]:
    """What must be equal: weights, metrics without times, results without times."""
    run = folder / "run" / "student-s0"
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    result = json.loads((run / "result.json").read_text())
    for row in (*rows, result):
        row.pop("seconds")
    weights = (run / "student.safetensors").read_bytes()
    assert len(weights) > 1000
    assert len(rows) == SETTINGS["epochs"]
    return {"weights": hashlib.sha256(weights).hexdigest(), "metrics": rows, "result": result}


def state(folder: Path) -> str:
    try:
        return str(json.loads((folder / "run" / "run.json").read_text())["status"])
    except (OSError, ValueError):
        return "none"


def killed(
    folder: Path, teacher: str, workers: int, kills: int, rng: random.Random, negative: bool = False
) -> tuple[int, int]:
    """Run to the end through up to ``kills`` SIGKILLs; how many struck while it was training, and how many had to start anew."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch", "potstill.run", "potstill.report", "lightning_fabric"])
    struck = anew = 0
    while state(folder) != "done":
        fresh = state(folder) == "none"
        process = context.Process(target=start, args=(str(folder), teacher, workers)) if fresh else None
        process = process or context.Process(target=resume, args=(str(folder), negative))
        metrics = folder / "run" / "student-s0" / "metrics.jsonl"
        process.start()
        if struck < kills:
            while process.is_alive() and not metrics.parent.exists():
                time.sleep(0.005)
            process.join(rng.uniform(0.0, 0.7) + (0.4 if not fresh else 0.0))
            if process.is_alive():
                process.kill()
                struck += 1
        process.join()
        if process.exitcode not in (0, -9):
            raise SystemExit(f"the run failed with exit code {process.exitcode}: see {folder}/run/log.txt")
        anew += fresh
    return struck, anew


def teacher(folder: Path) -> str:
    """A trained teacher, with one stage to take hints from."""
    from potstill.config.load import resolve
    from potstill.console import Console
    from potstill.run import train

    flags = {
        "data.source": "digits",
        "student.model": f"{STUDENT.removesuffix(':make')}:make",
        "student.kwargs.width": 16,
    }
    config = resolve([], [], {**flags, "epochs": 2, "out": str(folder), "name": "teacher", "track": []}, "train").config
    return str(train(config, console=Console(quiet=True)).path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--kills", type=int, default=24)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    rng, failed = random.Random(arguments.seed), False
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        taught = teacher(root)
        for workers in (0, 2):
            whole, torn = root / f"whole{workers}", root / f"torn{workers}"
            killed(whole, taught, workers, 0, rng)
            done = 0
            while done < arguments.kills // 2:
                folder = torn / str(done)
                struck, _ = killed(folder, taught, workers, min(6, arguments.kills // 2 - done), rng)
                same = outcome(folder) == outcome(whole)
                failed |= not same
                done += max(struck, 1)
                print(f"workers {workers}: {struck} kills, {'equal' if same else 'DIFFERENT'}", flush=True)
        folder = root / "negative"
        struck, _ = killed(folder, taught, 0, 3, rng, negative=True)
        differs = outcome(folder) != outcome(root / "whole0")
        print(
            f"negative control, random state not restored: {struck} kills, {'differs, as it must' if differs else 'EQUAL'}"
        )
    sys.exit(failed or not differs)


if __name__ == "__main__":
    main()
