"""A run directory that is true in form and numbers: handwritten digits, a small net trained alone and by a teacher.

The nets are two-layer perceptrons in numpy, so that the tests of the report need no torch; the losses are cross-entropy
and KD (T^2 KL at T = 4), and every number in the files is measured.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file
from sklearn.datasets import load_digits

T = 4.0
EPOCHS = {"teacher": 30, "student": 20, "control": 20}
HIDDEN = {"teacher": 64, "student": 8, "control": 8}
SEEDS = (0, 1, 2)


def softmax(z: np.ndarray) -> np.ndarray:
    e = np.exp(z - z.max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)


class Perceptron:
    def __init__(self, hidden: int, seed: int) -> None:
        rng = np.random.default_rng(seed)
        self.w = [rng.normal(0, 0.2, (64, hidden)), np.zeros(hidden), rng.normal(0, 0.2, (hidden, 10)), np.zeros(10)]
        self.v = [np.zeros_like(w) for w in self.w]

    def __call__(self, x: np.ndarray) -> np.ndarray:
        return np.maximum(x @ self.w[0] + self.w[1], 0) @ self.w[2] + self.w[3]

    def step(self, x: np.ndarray, slope: np.ndarray, lr: float) -> None:
        h = np.maximum(x @ self.w[0] + self.w[1], 0)
        back = slope @ self.w[2].T * (h > 0)
        for w, v, g in zip(self.w, self.v, [x.T @ back, back.sum(0), h.T @ slope, slope.sum(0)], strict=True):
            v[:] = 0.9 * v - lr * g / len(x)
            w += v


def scores(z: np.ndarray, y: np.ndarray, teacher: np.ndarray | None) -> dict[str, float]:
    p, top = softmax(z), z.argmax(1)
    confidence, right = p.max(1), top == y
    bins = np.ceil(confidence * 15).astype(int)
    ece = sum(abs((right[bins == b].mean() - confidence[bins == b].mean()) * (bins == b).mean()) for b in set(bins))
    found = {
        "top1": right.mean(),
        "top5": (np.argsort(-z, 1)[:, :5] == y[:, None]).any(1).mean(),
        "nll": -np.log(p[np.arange(len(y)), y] + 1e-12).mean(),
        "ece": ece,
    }
    if teacher is not None:
        found["agreement"] = (top == teacher.argmax(1)).mean()
    return {k: float(v) for k, v in found.items()}


def train(role: str, seed: int, parts: dict[str, Any], teacher: Perceptron | None, folder: Path | None) -> Perceptron:
    net, rng = Perceptron(HIDDEN[role], seed), np.random.default_rng(seed)
    x, y = parts["train"]
    labelled = np.arange(len(y)) < (len(y) if role == "teacher" else 80)
    says = None if teacher is None else {k: teacher(v[0]) for k, v in parts.items()}
    distils, history, test = role == "student", [], {}
    for epoch in range(1, EPOCHS[role] + 1):
        lr, links = 0.1 * (1 - (epoch - 1) / EPOCHS[role]), []
        for rows in np.array_split(rng.permutation(len(y)), 17):
            z, known = net(x[rows]), labelled[rows][:, None]
            slope = known * (softmax(z) - np.eye(10)[y[rows]])
            nll = -np.log(softmax(z)[np.arange(len(rows)), y[rows]] + 1e-12)
            links.append({"ce": float((nll * known[:, 0]).mean())})
            if distils and says is not None:
                q, p = softmax(says["train"][rows] / T), softmax(z / T)
                links[-1]["kd"] = float((T * T * (q * np.log((q + 1e-12) / (p + 1e-12))).sum(1)).mean())
                slope = slope + T * (p - q)
            net.step(x[rows], slope, lr)
        mean = {k: float(np.mean([b[k] for b in links])) for k in links[0]}
        val = scores(net(parts["val"][0]), parts["val"][1], says and says["val"])
        history.append(
            {"stage": "distil" if distils else "alone", "epoch": epoch, "step": 17 * epoch, "seconds": 0.1, "lr": lr}
            | {"train": {"loss": sum(mean.values()), "links": mean}, "val": val}
        )
        test[epoch] = scores(net(parts["test"][0]), parts["test"][1], says and says["test"])
    if folder:
        folder.mkdir()
        (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in history))
        best = max(history, key=lambda h: h["val"]["top1"])["epoch"]
        ends = {
            n: {"epoch": e, "val": history[e - 1]["val"], "test": test[e]} for n, e in (("last", epoch), ("best", best))
        }
        (folder / "result.json").write_text(
            json.dumps({"role": role, "seed": seed, "epochs": epoch, "seconds": 2.5, **ends})
        )
        logits = {"logits": net(parts["test"][0]).astype(np.float16), "y": parts["test"][1]}
        save_file(logits, folder / "test.logits.safetensors")
    return net


def stats(run: Path, role: str) -> dict[str, Any]:
    results = [json.loads((run / f"{role}-s{s}" / "result.json").read_text()) for s in SEEDS]
    found: dict[str, Any] = {}
    for when in ("last", "best"):
        values = {m: [r[when]["test"][m] for r in results] for m in results[0]["last"]["test"]}
        found[when] = {
            m: {"mean": float(np.mean(v)), "std": float(np.std(v, ddof=1)), "n": len(v), "values": v}
            for m, v in values.items()
        }
    return found


def card(hidden: int) -> dict[str, Any]:
    parameters = 64 * hidden + hidden + hidden * 10 + 10
    return {
        "model": f"zoo:mlp-{hidden}", "kwargs": {"hidden": hidden, "num_classes": 10}, "parameters": parameters,
        "macs": 74 * hidden, "bytes": 4 * parameters, "latency_ms": 0.002 * hidden**0.5, "sha256": f"{hidden:064x}",
    }  # fmt: skip


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("runs") / "1121-0102-kd-mlp-digits"
    run.mkdir()
    digits = load_digits()
    order = np.random.default_rng(0).permutation(len(digits.target))
    x, y = (digits.data[order] / 16).astype(np.float64), digits.target[order].astype(np.int64)
    parts = {"train": (x[:1078], y[:1078]), "val": (x[1078:1257], y[1078:1257]), "test": (x[1257:], y[1257:])}
    teacher = train("teacher", 7, parts, None, None)
    students = [train("student", s, parts, teacher, run / f"student-s{s}") for s in SEEDS]
    for s in SEEDS:
        train("control", s, parts, teacher, run / f"control-s{s}")
    x, y = parts["test"]
    z, said = teacher(x), students[0](x).argmax(1)
    save_file({"logits": z.astype(np.float16), "y": y}, run / "teacher.logits.safetensors")
    odd = np.flatnonzero(z.argmax(1) != said)[:16]
    images = (255 * x[odd]).astype(np.uint8).reshape(-1, 1, 8, 8)
    examples = {
        "images": images,
        "ids": order[1257:][odd],
        "y": y[odd],
        "student": said[odd],
        "teacher": z.argmax(1)[odd],
    }
    save_file(examples, run / "examples.safetensors")
    student, control = stats(run, "student"), stats(run, "control")
    d = np.subtract(student["last"]["top1"]["values"], control["last"]["top1"]["values"])
    half = 4.302653 * d.std(ddof=1) / len(d) ** 0.5  # Student's t, 2 degrees of freedom
    facts = {
        "format": 1, "potstill": "0.1.0", "kind": "distill", "name": run.name, "status": "done", "exit_code": 0,
        "command": ["potstill", "distill", "digits", "method=kd", "student=mlp-8"], "started": "2026-11-21T01:02:03+00:00",
        "finished": "2026-11-21T01:02:41+00:00", "seconds": 38.0, "pid": 4242, "host": "bench",
        "environment": {"python": "3.11.7", "torch": "2.13.0", "platform": "Linux", "cpu": "x86-64", "cores": 2}
        | {"device": "cpu", "packages": {"numpy": np.__version__, "safetensors": "0.8.0"}},
        "git": {"commit": "0123456789abcdef0123456789abcdef01234567", "dirty": False},
        "data": {"source": "digits", "fingerprint": "5f" * 32, "classes": [str(c) for c in range(10)], "train": 1078}
        | {"val": 179, "test": 540, "labelled": 80, "size": [1, 8, 8], "split": "60/10/30, seed 0"}
        | {"notices": ["998 of the training pictures are used without their label"]},
        "teacher": card(64), "student": card(8), "method": "kd",
        "losses": [
            {"name": "ce", "use": "ce", "weight": 1.0, "at": [["logits", "logits"]], "shapes": [[[10], [10]]], "parameters": 0},
            {"name": "kd", "use": "kd", "weight": {"start": 0.0, "end": 1.0}, "at": [["hidden", "fc1"]]}
            | {"shapes": [[[8], [64]]], "parameters": 512, "settings": {"temperature": 4.0}},
        ],
        "budget": {"epochs": 20, "steps": 340, "batch": 64},
        "preflight": [f"teacher mlp-64: test top-1 {scores(z, y, None)['top1']:.3f}", "losses at step 0: ce 0.17, kd 5.3"],
        "seeds": list(SEEDS),
        "results": {
            "student": student, "control": control,
            "teacher": {"test": scores(z, y, None), "val": scores(teacher(parts["val"][0]), parts["val"][1], None)},
            "difference": {
                "mean": float(d.mean()), "low": float(d.mean() - half), "high": float(d.mean() + half), "n": 3,
                "significant": bool(abs(d.mean()) > half), "how": "95 % t interval of the differences paired by seed, 3 seeds",
            },
        },
    }  # fmt: skip
    (run / "run.json").write_text(json.dumps(facts))
    (run / "student.safetensors").write_bytes(b"not weights, but bytes with a hash")
    (run / "config.yaml").write_text(
        "teacher: mlp-64\nstudent: mlp-8\ndata: digits\nmethod: kd\nepochs: 20\nseeds: 3\n"
    )
    return run


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    """A copy of the finished run that a test may damage."""
    return Path(shutil.copytree(finished, tmp_path / finished.name))


@pytest.fixture
def edit(run: Path) -> Callable[..., Path]:
    """Change run.json: ``edit(lambda facts: ...)``."""

    def change(how: Callable[[dict[str, Any]], object], where: Path = run) -> Path:
        facts = json.loads((where / "run.json").read_text())
        how(facts)
        (where / "run.json").write_text(json.dumps(facts))
        return where

    return change
