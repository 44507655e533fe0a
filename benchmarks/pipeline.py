"""What it costs to bring a picture to a step: the stream of a run, against a picture at a time, and as a share of the steps.

    python -m benchmarks.pipeline                                  # about a minute of one core, pictures of noise
    python -m benchmarks.pipeline --data parquet:PATH --device cuda

Pictures of 3x32x32 mapped into memory, batches of 64, one thread. ``stream`` is what a run reads: gathered, augmented and made
float in batches, without a Python step a picture. ``one by one`` does the same crop and mirror to each picture with Pillow, as
the pipelines of published code do, and stacks them; it is given for ``auto`` only. All take turns, in random order every round;
given are medians of CPU microseconds a picture (on a GPU of microseconds, an epoch between two synchronisations). Steps are those
of benchmarks/speed.py: the student alone (the floor) and KD with a cached teacher. A line to benchmarks/results/pipeline.jsonl.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
from PIL import Image, ImageOps

from benchmarks.speed_cases import Case, floor, ours
from benchmarks.speed_device import seconds
from potstill.data import sources
from potstill.data.arrays import ArrayData
from potstill.data.stream import Stream
from potstill.data.views import Views
from potstill.runs import environment, git_state, now

RESULTS = Path(__file__).parent / "results" / "pipeline.jsonl"
BATCH, PICTURES = 64, 6400
AUGMENT = {
    "none": Views(),
    "auto": Views(pad=4, flip=True),
    "all": Views(pad=4, flip=True, colour=0.2, erase=0.25),
}
PAIRS = (("resnet20", "resnet8"), ("resnet32x4", "resnet8x4"))


def mapped(folder: Path) -> ArrayData:
    """Pictures of noise in a file that is mapped into memory."""
    noise = np.random.default_rng(0).integers(0, 256, (PICTURES, 3, 32, 32), np.uint8)
    np.save(folder / "pictures.npy", noise)
    return ArrayData(np.load(folder / "pictures.npy", mmap_mode="r"), np.arange(PICTURES) % 100)


def one_by_one(data: ArrayData) -> Callable[[], None]:
    """An epoch of the same crop and mirror, a picture at a time."""
    rng = random.Random(0)

    def picture(i: int) -> torch.Tensor:
        image = Image.fromarray(data.pictures([i])[0].transpose(1, 2, 0))
        left, top = rng.randrange(9), rng.randrange(9)
        image = ImageOps.expand(image, 4).crop((left, top, left + 32, top + 32))
        if rng.random() < 0.5:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous().float().div(255)

    def epoch() -> None:
        order = [*range(len(data))]
        rng.shuffle(order)
        for start in range(0, len(order), BATCH):
            torch.stack([picture(i) for i in order[start : start + BATCH]])

    return epoch


def streamed(data: ArrayData, views: Views, device: str) -> Callable[[], None]:
    """An epoch of what a run reads, a new one each time."""
    stream, epochs = Stream(data, BATCH, views=views, device=device), iter(range(10**6))

    def epoch() -> None:
        for _ in stream.epoch(next(epochs)):
            pass

    return epoch


def steps(device: str, folder: Path) -> dict[str, Callable[[], None]]:
    """Training steps, by name."""
    made: dict[str, Callable[[], None]] = {}
    for pair in PAIRS:
        case = Case("kd", pair, device)
        for name, step in (
            ("alone", floor(case, "floor", [])),
            ("KD, cached", ours(case, "cached", folder / pair[1], [])),
        ):
            assert not isinstance(step, str)
            made[f"{pair[1]} {name}"] = step
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", help="as of potstill distill; pictures of noise where it is left out")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rounds", type=int, default=7)
    args = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        data = sources.load(args.data, limit=PICTURES).train if args.data else mapped(Path(folder))
        assert isinstance(data, ArrayData)
        runs = {f"stream, {name}": streamed(data, views, args.device) for name, views in AUGMENT.items()}
        runs["one by one, auto"] = one_by_one(data)
        taken = steps(args.device, Path(folder))
        each = {**dict.fromkeys(runs, len(data)), **dict.fromkeys(taken, BATCH)}
        runs |= taken
        took: dict[str, list[float]] = {name: [] for name in runs}
        for run in runs.values():
            run()
        names, rng = [*runs], random.Random(0)
        for _ in range(args.rounds):
            rng.shuffle(names)
            for name in names:
                took[name].append(1e6 * seconds(runs[name], args.device) / each[name])
    us = {name: statistics.median(t) for name, t in took.items()}
    share = {name: us["stream, auto"] / us[name] for name in taken}
    row = {"us_a_picture": us, "of_step": share, "pictures": len(data), "rounds": args.rounds, "device": args.device}
    row |= {"at": now(), "git": git_state(), "environment": environment(args.device)}
    with open(RESULTS, "a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")
    for name, value in us.items():
        said = f", of which the stream would be {100 * share[name]:.1f} %" if name in share else ""
        print(f"{name:<24} {value:9.1f} us a picture{said}")


if __name__ == "__main__":
    main()
