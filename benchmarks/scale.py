"""What a teacher costs at scale: hours, cache bytes and network for ImageNet-1k and for 100 million pictures.

    python -m benchmarks.scale                                    # the tables of docs/scale.md
    python -m benchmarks.scale --rate 2500 --epochs 90            # with the pictures a second that your teacher answers

Arithmetic from measured numbers, no measurement: say the rate of your own teacher (`potstill cache build` prints it).
"""

from __future__ import annotations

import argparse

from potstill.cache.codec import Half, Int8, TopK

SETS = {"ImageNet-1k": (1_281_167, 1000, 110e3), "100 M pictures": (100_000_000, 1000, 110e3)}
"""Pictures, classes, bytes of a picture as a JPEG file (ImageNet's mean)."""
FLOPS = {"ResNet-50": 8.2e9, "ViT-L/16": 123e9}
"""Of a forward pass at 224 x 224, two a multiply-add (He et al. 2016; Dosovitskiy et al. 2021)."""
CHIP = 788e12
"""bf16 operations a second that an H200 reached in a matrix product."""
SHARE = 0.35
"""What a network is assumed to reach of that: an assumption, not a measurement."""


def records(classes: int) -> dict[str, int]:
    """Bytes a record, by codec."""
    logits = (classes,)
    return {"float16": Half(logits).nbytes, "int8": Int8(logits).nbytes, "top 20": TopK(logits, k=20).nbytes}


def size(n: float) -> str:
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if n < 1000:
            return f"{n:.3g} {unit}"
        n /= 1000
    return f"{n:.3g} PB"


def table(rate: float | None, epochs: int, views: int, step_rate: float) -> str:
    lines = [
        "| | teacher hours, live | teacher hours, cached | " + " | ".join(records(1000)) + " | read back | pictures |"
    ]
    lines.append("|---" * 8 + "|")
    for name, (pictures, classes, file) in SETS.items():
        for teacher, flops in FLOPS.items():
            speed = rate or CHIP * SHARE / flops
            live, once = (pictures * n / speed / 3600 for n in (epochs, views))
            store = {k: pictures * views * b for k, b in records(classes).items()}
            back = step_rate * records(classes)["int8"]
            cells = [
                f"{live:,.1f}",
                f"{once:,.1f}",
                *map(size, store.values()),
                f"{size(back)}/s",
                size(pictures * file),
            ]
            lines.append(f"| {name}, {teacher} at {speed:,.0f}/s | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rate", type=float, help="pictures a second of the teacher; by default estimated for an H200")
    parser.add_argument("--epochs", type=int, default=100)
    parser.add_argument("--views", type=int, default=16)
    parser.add_argument("--students", type=float, default=20_000, help="pictures a second of all students together")
    a = parser.parse_args()
    print(table(a.rate, a.epochs, a.views, a.students))


if __name__ == "__main__":
    main()
