"""torchdistill (github.com/yoshitomo-matsubara/torchdistill, MIT): its distillation box on one batch.

``--peer torchdistill`` takes the installed package, ``--peer torchdistill=PATH`` a checkout. The package imports torchvision, so
where that cannot be imported there is nothing to measure, and the line says so. A step is what the loop of its
examples/torchvision/image_classification.py does with a batch; the teacher is in eval mode, which its loop leaves to the user.
It takes any net, so it has ours, in their default memory format. The methods are those that it has without layers of its own
round the nets, with the weights that the other peers use for CIFAR-100.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmarks.peers import on_path

STAGES = ("layer1", "layer2", "layer3")
LOGITS = {
    f"{net}_module_{key}": value for net in ("student", "teacher") for key, value in (("path", "."), ("io", "output"))
}
POOLED = {key: "fc" if key.endswith("path") else "input" for key in LOGITS}


def term(key: str, weight: float, **kwargs: Any) -> dict[str, Any]:
    return {"criterion": {"key": key, "kwargs": kwargs}, "weight": weight}


def both(path: str) -> dict[str, str]:
    return {"student_output_path": path, "teacher_output_path": path}


LABELS = {
    **term("CrossEntropyLoss", 1.0),
    "criterion_wrapper": {
        "key": "SimpleLossWrapper",
        "kwargs": {
            "input": {"is_from_teacher": False, "module_path": ".", "io": "output"},
            "target": {"uses_label": True},
        },
    },
}
MAPS = {s: {side: {"io": "output", "path": s} for side in ("student", "teacher")} for s in STAGES}
# Ours -> (modules whose output it listens to, the method's term beside cross-entropy).
METHODS: dict[str, tuple[tuple[str, ...], dict[str, Any]]] = {
    "kd": ((), term("KDLoss", 1.0, **LOGITS, temperature=4.0, alpha=0.1)),
    "at": (STAGES, term("ATLoss", 1000.0, at_pairs=MAPS, mode="code")),
    "sp": (("layer3",), term("SPKDLoss", 3000.0, **both("layer3"), reduction="batchmean")),
    "rkd": (
        ("avgpool",),
        term("RKDLoss", 1.0, **both("avgpool"), dist_factor=25.0, angle_factor=50.0, reduction="mean"),
    ),
    "pkt": ((), term("PKTLoss", 30000.0, **POOLED)),
    "dist": ((), term("DISTLoss", 1.0, **LOGITS, beta=2.0, gamma=2.0, tau=4.0)),
}


def config(method: str) -> dict[str, Any]:
    """Of its box."""
    heard, own = METHODS[method]
    hooks = {"input": ["fc"] if own["criterion"]["key"] == "PKTLoss" else [], "output": [*heard]}
    net: dict[str, Any] = {"forward_proc": "forward_batch_only", "forward_hook": hooks}
    terms = {"method": own} if method == "kd" else {"ce": LABELS, "method": own}  # its KD has the labels in it
    return {
        "num_epochs": 1,
        "teacher": {**net, "requires_grad": False},
        "student": {**net, "requires_grad": True},
        "optimizer": {"key": "SGD", "kwargs": {"lr": 0.05, "momentum": 0.9, "weight_decay": 5e-4}},
        "criterion": {"key": "WeightedSumLoss", "kwargs": {"sub_terms": terms}},
    }


def nets(pair: tuple[str, str]) -> list[nn.Module]:
    from potstill.models import resolve

    return [resolve(f"zoo:{name}", num_classes=100, in_channels=3).module for name in pair]


def step(
    path: Path | None,
    method: str,
    batch: tuple[torch.Tensor, torch.Tensor],
    pair: tuple[str, str],
    device: str,
    times: int = 1,
) -> Callable[[], None] | str:
    """So many steps of its loop, on a batch of pictures and labels; what is missing."""
    if path is not None:
        on_path(path)
    try:
        from torchdistill.core.distillation import get_distillation_box  # type: ignore[import-not-found]
    except (ImportError, RuntimeError) as error:  # RuntimeError: a torchvision that was built for another torch
        return f"torchdistill cannot be imported here: {error}"
    teacher, student = (net.to(device) for net in nets(pair))
    box = get_distillation_box(teacher, student, {}, config(method), torch.device(device), None, False, 1)
    teacher.eval()
    box.pre_epoch_process(epoch=0)
    x, y = batch

    def main() -> None:
        for _ in range(times):
            pictures, labels = x.to(device), y.to(device)
            loss = box.forward_process(pictures, labels, {})
            box.post_forward_process(loss=loss)
            loss.item()
            if torch.isnan(loss) or torch.isinf(loss):
                raise ValueError(f"the loss is {loss}")

    return main
