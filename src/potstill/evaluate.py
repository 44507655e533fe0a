"""Looking at nets that are there: measure one, list its layers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from potstill.config.load import resolve as resolve_config
from potstill.config.sections import ModelConfig
from potstill.errors import ConfigError
from potstill.methods.probe import Look, look, pairs
from potstill.metrics import per_class
from potstill.models.resolve import read_record, resolve
from potstill.models.spec import parse
from potstill.prepare import prepare
from potstill.types import Shape


def evaluate(path: str, *, data: str | None = None, split: str = "test", trust_code: bool = False) -> dict[str, Any]:
    """Measure a run's student, or any net on the data given.

    Returns:
        the measures, and the accuracy of each class under ``per_class``.
    """
    folder = Path(path)
    if (folder / "config.yaml").exists():
        # how many of its own pictures the run had labels for says nothing of other data
        other = [f"data.source={data}", "data.labels=null", "data.limit=null"] if data else []
        config = resolve_config([str(folder / "config.yaml")], other, {}).config
    elif data is None:
        raise ConfigError("which data?", hint=f"potstill eval {path} --data folder:PATH")
    else:
        config = resolve_config([], [], {"student.model": path, "data.source": data}, "train").config
    config = config.model_copy(
        update={"kind": "train", "student": ModelConfig(model=str(path)), "trust_code": trust_code}
    )
    if split not in ("train", "val", "test"):
        raise ConfigError(f"split must be train, val or test, got {split!r}")
    ready = prepare(config)
    net = ready.student(config.seed)
    measures, logits = ready.measure(net, split)
    accuracy = per_class(logits, getattr(ready.splits, split).labels, ready.num_classes)
    return {
        "model": path,
        "data": ready.splits.source,
        "split": split,
        "n": len(getattr(ready.splits, split)),
        **measures,
        "per_class": dict(zip(ready.splits.classes, [None if a != a else float(a) for a in accuracy], strict=True)),
    }


def _own_size(spec: str) -> Shape | None:
    """Of the pictures that the student of a folder was trained on."""
    parsed = parse(spec)
    record = Path(parsed.place).expanduser() / "student.json"
    if parsed.source != "run" or not record.is_file():
        return None
    known = read_record(record)
    return (known["in_channels"], *known["size"]) if known["in_channels"] and known["size"] else None


def inspect(
    model: str,
    pair: str | None = None,
    size: Shape | None = None,
    classes: int = 10,
    trust_code: bool = False,
) -> dict[str, Any]:
    """The layers of a net that can be spots, and how it pairs with another.

    Args:
        size: of a picture, (C, H, W); None: that of the data that the net (or the other) was trained on, where a folder says
            so, else 3x32x32.

    Returns:
        ``{"layers": [{"path", "kind", "shape", "parameters", "tappable"}, ..], "stages", "penultimate", "pairs"}``.
    """

    size = size or next(filter(None, map(_own_size, (model, pair or model))), (3, 32, 32))

    def seen(spec: str) -> Look:
        net = resolve(spec, num_classes=classes, in_channels=size[0], trust_code=trust_code)
        return look(net.module, torch.zeros(2, *size), net.preprocess)

    first = seen(model)
    second = seen(pair) if pair else None
    return {
        "model": model,
        "input": list(size),
        "layers": [
            {"path": p, "kind": x.kind, "shape": list(x.shape), "parameters": x.parameters, "tappable": x.tappable}
            for p, x in first.layers.items()
        ],
        "stages": list(first.stages),
        "penultimate": first.penultimate,
        "pairs": [
            {
                "teacher": t,
                "student": s,
                "teacher_shape": list(first.layers[t].shape),
                "student_shape": list(second.layers[s].shape),
            }
            for s, t in pairs(second, first)
        ]
        if second
        else [],
    }
