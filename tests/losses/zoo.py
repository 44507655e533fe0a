"""How the common test builds each loss: one row a file of ``potstill/losses``. A loss without a row fails the test.

Add a row: ``"name": Row(s, t)`` with the shapes of one sample of student and teacher (lists where the spot is a list).
Facts of the constructor (``s_shape``, ``t_shape``, ``num_classes``, ``num_samples``, ``labels``) are filled in by name.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from potstill.losses import Loss, zoo
from potstill.types import Batch, Shape

CLASSES, SAMPLES = 5, 40
LABELS = torch.arange(SAMPLES) % CLASSES
LOGITS: Shape = (CLASSES,)
STAGES_S: list[Shape] = [(4, 8, 8), (6, 4, 4), (8, 2, 2)]
STAGES_T: list[Shape] = [(5, 8, 8), (6, 4, 4), (10, 2, 2)]
Says = Tensor | list[Tensor]


@dataclass(frozen=True)
class Row:
    """Example shapes of a loss, and the settings with which the contract is tested.

    Attributes:
        s, t: the shape of one sample at the student's and at the teacher's spot, or a list of shapes.
        variants: settings; every one is tested.
        facts: facts of the constructor beyond those that are filled in by name.
        classes: the spot holds logits: tested with two classes, with logits of 450, and refused where classes differ.
        needs_three_classes: two classes are refused.
        positive: the teacher says numbers >= 0 (probabilities, maps behind a ReLU).
        preset: False for cross-entropy and for what only a pre-stage of another method uses: no preset names it.
    """

    s: Shape | Sequence[Shape]
    t: Shape | Sequence[Shape]
    variants: tuple[Mapping[str, Any], ...] = ({},)
    facts: Mapping[str, Any] | None = None
    classes: bool = False
    needs_three_classes: bool = False
    positive: bool = False
    preset: bool = True


def logits(*variants: Mapping[str, Any], **more: Any) -> Row:
    return Row(LOGITS, LOGITS, variants or ({},), classes=True, **more)


V_S: Shape = (6,)
V_T: Shape = (9,)
STAGES_EQUAL: list[Shape] = [(4, 4, 4), (6, 4, 4), (8, 2, 2)]  # the student's channels
torch.manual_seed(0)  # the heads below: the same numbers in every run
HEADS: dict[str, Any] = {"s_head": nn.Linear(6, CLASSES), "t_head": nn.Linear(9, CLASSES)}
SAME_HEADS: dict[str, Any] = {"s_head": nn.Linear(6, CLASSES), "t_head": nn.Linear(6, CLASSES)}

ZOO: dict[str, Row] = {
    "ab": Row(STAGES_S, STAGES_T),
    "afd": Row(STAGES_S, STAGES_T[:2], ({}, {"dim": 16})),
    "at": Row(STAGES_S, STAGES_T, ({}, {"p": 3.0})),
    "cat_kd": Row((6, 4, 4), (9, 2, 2), ({}, {"normalize": True}, {"resolution": 4}), facts=HEADS),
    "cc": Row(V_S, V_T, ({}, {"form": "kernel"})),
    "ce": logits({}, {"smoothing": 0.1}, preset=False),
    "crcd": Row(V_S, V_S, ({}, {"gradient": "cosine"}, {"gradient": "none", "balanced": True}), facts=SAME_HEADS),
    "crd": Row(V_S, V_T, ({"negatives": 20}, {"negatives": 20, "positives": "relaxed", "balanced": True})),
    "ctkd": logits({}, {"mode": "instance"}, {"standardize": True}),
    "cwd": Row((4, 4, 4), (6, 2, 2), ({}, {"temperature": 1.0})),
    "dist": logits({}, {"temperature": 4.0}),
    "dkd": logits({}, {"standardize": True}, needs_three_classes=True),
    "fitnet": Row((4, 8, 8), (6, 4, 4), ({}, {"activation": "relu"})),
    "fsp": Row(STAGES_S, STAGES_EQUAL, ({}, {"pooling": "max"})),
    "ft": Row((4, 4, 4), (6, 2, 2), ({}, {"form": "factor", "batch_norm": False})),
    "ickd": Row((4, 4, 4), (6, 2, 2)),
    "itrd": Row(V_S, V_T),
    "kd": logits({}, {"standardize": True}),
    "kdsvd": Row(STAGES_S, STAGES_EQUAL, ({}, {"k": 2}, {"signs": "positive"})),
    "mgd": Row((4, 4, 4), (6, 2, 2), ({}, {"masked": 0.5, "mask": "pixel"})),
    "mlkd": Row([LOGITS, LOGITS], [LOGITS, LOGITS], ({}, {"hardest": 1.0}, {"standardize": True}), classes=True),
    "nkd": logits({}, {"temperature": 3.0}, needs_three_classes=True),
    "norm_kd": logits(),
    "nst": Row(STAGES_S, STAGES_T),
    "ofd": Row(STAGES_S, STAGES_T, facts={"t_margin": None}),
    "pad": Row(V_S, V_T),
    "pkt": Row(V_S, V_T),
    "reviewkd": Row([*STAGES_S, V_S], [*STAGES_T, V_T], ({}, {"width": 3})),
    "rkd": Row(V_S, V_T, ({}, {"angle_weight": 0.0}, {"distance_weight": 0.0})),
    "semckd": Row(STAGES_S, STAGES_T[:2], ({}, {"softness": 0.5})),
    "simkd": Row((6, 4, 4), (9, 2, 2), ({}, {"activation": "relu"}), facts=HEADS),
    "soft_ce": logits(),
    "sp": Row((4, 4, 4), (6, 2, 2)),
    "spherical_kd": logits({}, {"scale": 2.0}),
    "srrl": Row(V_S, V_T, ({}, {"activation": "relu"}), facts=HEADS),
    "ttm": logits(),
    "vid": Row(STAGES_S, STAGES_T),
    "wsld": logits(),
    "wttm": logits(),
}


def says(shape: Shape | Sequence[Shape], n: int, seed: int, positive: bool = False) -> Says:
    """What a net says of ``n`` samples: normal numbers, the same for the same seed."""
    g = torch.Generator().manual_seed(seed)
    if shape and not isinstance(shape[0], int):
        return [says(one, n, seed + i, positive) for i, one in enumerate(shape)]  # type: ignore[arg-type, misc]
    x = torch.randn(n, *shape, generator=g)  # type: ignore[misc]
    return x.abs() if positive else x


def batch(n: int, classes: int = CLASSES) -> Batch:
    ids = torch.arange(n) % SAMPLES
    return Batch(torch.zeros(n, 3, 8, 8), LABELS[ids] % classes, ids, torch.zeros_like(ids), progress=0.5)


def build(name: str, settings: Mapping[str, Any], row: Row | None = None) -> Loss:
    """The loss of a file with these settings and the facts of its row, its parameters drawn from one seed."""
    row = row or ZOO[name]
    module = importlib.import_module(f"potstill.losses.{name}")
    cls = getattr(module, next(c for c, file in zoo().items() if file == name))
    known = {
        "s_shape": row.s,
        "t_shape": row.t,
        "num_classes": CLASSES,
        "num_samples": SAMPLES,
        "labels": LABELS,
        **(row.facts or {}),
    }
    wanted = inspect.signature(cls.__init__).parameters
    torch.manual_seed(0)
    loss: Loss = cls(**settings, **{k: v for k, v in known.items() if k in wanted})
    return loss
