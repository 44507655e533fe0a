"""The proof: every artefact is run in its own runtime and held against the float student and the teacher."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from rich.table import Table
from torch import Tensor

from potstill.adopt import class_order
from potstill.compress import calibration, doubt
from potstill.compress.guards import SUFFIXES
from potstill.compress.runtimes import EagerNet, Runs, latencies, open_artefact
from potstill.compress.sensitivity import Blame, Simulation
from potstill.compress.stage import Work
from potstill.errors import ConfigError, ModelError
from potstill.files import write_json
from potstill.metrics import from_logits, per_class
from potstill.models.net import Net
from potstill.ready import Ready

FLOAT_DRIFT = 1e-3
"""Largest difference of a float artefact's logits, over the largest logit: more is a fault of the export, not rounding."""


@dataclass(frozen=True)
class Verify:
    """Run all artefacts of the export before on the validation and the test data, and refuse those that have become too bad.

    Refused is a drop that is above ``allowed_drop`` and beyond chance (:mod:`potstill.compress.doubt`): on 180 pictures one
    answer is 0.6 points, and a file that changes a few of them for no reason would be refused or passed by luck. The test is
    against no loss at all and one-sided: that a file loses something must be proven, not that it loses more than is allowed.
    So the doubt is with the file, and one that is let through is never called proven: the notices say which drops so few
    pictures cannot show.

    Args:
        allowed_drop: of the accuracy on the validation data against the float student, in points (0.01 = 1 %).
        repeats: runs that a latency is the median of.
    """

    allowed_drop: float = 1.0
    repeats: int = 50

    def __post_init__(self) -> None:
        if not 0 <= self.allowed_drop <= 100 or self.repeats < 1:
            raise ConfigError(
                f"allowed_drop must be 0..100 points and repeats 1 or more, got {self.allowed_drop}, {self.repeats}"
            )

    @property
    def kind(self) -> str:
        return "verify"

    @property
    def resumes(self) -> bool:
        return False

    def run(self, work: Work) -> dict[str, Any]:
        """Returns ``{"artefacts": rows}``, see :func:`measure`; also in ``verify.json``.

        Raises:
            ModelError: an artefact is refused; names the layers that are to blame.
        """
        folder = work.last("export")
        if folder is None:
            raise ConfigError("there is nothing to verify: no stage before exported a file", hint="--export onnx")
        files = sorted(p for p in folder.iterdir() if p.suffix in SUFFIXES)
        rows = measure(work.net, [open_artefact(f) for f in files], work.ready, work.teacher, self.repeats)
        write_json(work.folder / "verify.json", rows)
        work.console.table(table(rows))
        for row in rows:
            refuse(row, self.allowed_drop, work.net, work.ready)
        return {"artefacts": rows, "notices": notices(rows, self.allowed_drop)}


def measure(
    net: Net, artefacts: Sequence[Runs], ready: Ready, teacher: Net | None = None, repeats: int = 50
) -> list[dict[str, Any]]:
    """The teacher (if it is another net), the float student and its artefacts, on the validation and the test data.

    Returns:
        rows ``{"name", "runtime", "precision", "bytes", "latency_ms", "cpu_ms", "contended", "val", "test"}``, plain JSON.
        ``val`` and ``test`` have the measures of :func:`potstill.metrics.from_logits`, where ``agreement`` is with the float
        student, and of artefacts ``drop`` (points of accuracy) with what :func:`potstill.compress.doubt.changed` says of it,
        ``worst_class`` and ``drift`` (largest difference of a logit).
    """
    student = EagerNet(net, "student")
    first: list[Runs] = [student]
    if teacher is not None and teacher.module is not net.module:
        teacher = Net(teacher.module, teacher.spec, preprocess=teacher.preprocess, classes=teacher.classes)
        teacher.in_channels, teacher.size = student.card["picture"][0], tuple(student.card["picture"][1:])
        first.insert(0, EagerNet(teacher, "teacher"))
    runs = [*first, *artefacts]
    rows: list[dict[str, Any]] = [
        {
            "name": run.name,
            "runtime": run.runtime,
            "precision": run.card.get("precision", "?"),
            "bytes": run.bytes,
            "latency_ms": t.wall_ms,
            "cpu_ms": t.cpu_ms,
            "contended": t.contended,
        }
        for run, t in zip(runs, latencies(runs, repeats=repeats), strict=True)
    ]
    for split in ("val", "test"):
        floats, y = said(student, ready, split)
        own = from_logits(floats, y, floats)
        for run, row in zip(runs, rows, strict=True):
            z = floats if run is student else said(run, ready, split)[0]
            if (
                run.name == "teacher"
                and teacher is not None
                and (order := class_order(teacher, ready.splits)) is not None
            ):
                z = z[:, order]
            row[split] = {**from_logits(z, y, floats), "n": len(y)}
            if run in artefacts:
                row[split] |= _against(z, floats, y, ready.splits.classes)
                row[split]["drop"] = 100 * (own.get("top1", 0.0) - row[split].get("top1", 0.0))
    return rows


def said(run: Runs, ready: Ready, split: str) -> tuple[Tensor, Tensor]:
    """Logits and labels of a split."""
    batches = [(run.logits(b.x.cpu()), b.y.cpu()) for b in ready.eval_stream(split).epoch(0)]
    return torch.cat([z for z, _ in batches]), torch.cat([y for _, y in batches])


def _against(z: Tensor, floats: Tensor, y: Tensor, classes: Sequence[str]) -> dict[str, Any]:
    drops = (per_class(floats, y, len(classes)) - per_class(z, y, len(classes))).nan_to_num(-1.0)
    worst = int(drops.argmax())
    largest = float(floats.abs().max())
    return {
        **doubt.changed(z, floats, y),
        "worst_class": {"class": classes[worst], "drop": 100 * float(drops[worst])},
        "drift": float((z - floats).abs().max()) / max(largest, 1e-12),
    }


def refuse(row: dict[str, Any], allowed: float, net: Net, ready: Ready) -> None:
    """Raise, if an artefact is too much worse than the float student, and that is no chance.

    Raises:
        ModelError: it is; names the layers that are to blame.
    """
    drop = row["val"].get("drop", 0.0)
    if row["precision"] == "float32" and row["val"].get("drift", 0.0) > FLOAT_DRIFT:
        raise ModelError(
            f"{row['name']} says something else than the net that it was made from: its logits differ by "
            f"{100 * row['val']['drift']:.2g} % of the largest",
            why="a float file must be equal but for rounding",
            hint="potstill export RUN --to pt2; please report this",
        )
    if drop <= allowed or not doubt.proven(row["val"]):
        return
    bits = 4 if "int4" in row["precision"] else 8
    guilty = blame(net, ready, bits)[:5]
    listed = ", ".join(f"{b.path} (KL {b.kl:.3g}, {100 * b.flips:.1f} % of the answers change)" for b in guilty)
    raise ModelError(
        f"{row['name']} loses {drop:.2f} points of accuracy on {row['val']['n']:,} validation pictures, {allowed:g} are allowed; "
        f"{guilty[0].path} is to blame most",
        why=f"{row['val']['worse']} answers became wrong, {row['val']['better']} right: chance does that with a probability of "
        f"{row['val']['chance']:.1g}; quantized alone: {listed}",
        hint=f"keep the worst layers float (mixed=0.01, or keep={guilty[0].path}), train with quantization (train=300), "
        f"or allow more (allowed_drop={drop:.1f})",
    )


def blame(net: Net, ready: Ready, bits: int = 8, n: int = 256) -> list[Blame]:
    """Which layers quantization hurts, the worst first."""
    data = ready.splits.train
    return Simulation(net, calibration.pictures(data, min(n, len(data))), bits).blames()


def notices(rows: Sequence[dict[str, Any]], allowed: float = 1.0) -> list[str]:
    """What a reader of the table should know."""
    found = [said for row in rows if (said := doubt.unproven(row, allowed))]
    if any("drop" in row["val"] and row["precision"] != "float32" for row in rows):
        found += filter(None, [doubt.blind(rows[0]["val"]["n"], allowed)])
    if any(row["contended"] for row in rows):
        found.append("other work of the machine disturbed the latencies: compare the processor times")
    for row in rows:
        if row["val"].get("agreement", 1.0) < 0.985 and row["name"] not in ("teacher", "student"):
            share = 100 * (1 - row["val"]["agreement"])
            found.append(
                f"{row['name']} answers {share:.1f} % of the validation pictures otherwise than the float student"
            )
    return found


def table(rows: Sequence[dict[str, Any]]) -> Table:
    """The rows for people."""
    made = Table(box=None, pad_edge=False)
    for head in ("", "kB", "ms", "cpu ms", "val", "test", "drop", "agree"):
        made.add_column(head, justify="right" if head else "left", no_wrap=True)
    made.add_column("worst class")
    for row in rows:
        worst = row["val"].get("worst_class")
        made.add_row(
            row["name"],
            f"{row['bytes'] / 1000:,.0f}",
            f"{row['latency_ms']:.2f}",
            f"{row['cpu_ms']:.2f}",
            *(f"{100 * row[s]['top1']:.2f}" if "top1" in row[s] else "" for s in ("val", "test")),
            f"{row['val']['drop']:.2f}" if "drop" in row["val"] else "",
            f"{100 * row['val']['agreement']:.2f}",
            f"{worst['class']} -{worst['drop']:.1f}" if worst else "",
        )
    return made
