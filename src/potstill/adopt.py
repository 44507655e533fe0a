"""A net becomes the teacher of a run: its classes are held against the data's, it is measured, and refused at chance."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from potstill.cache.exam import examined
from potstill.cache.key import fingerprint
from potstill.cache.shelf import Shelf
from potstill.card import introduce
from potstill.data.arrays import Splits
from potstill.data.datasets import LiveData
from potstill.errors import ModelError
from potstill.models.net import Net
from potstill.ready import Ready
from potstill.taps import Tapped

MEASURED_KEPT = 8
_MEASURED: dict[tuple[Any, ...], tuple[dict[str, float], Tensor]] = {}


def adopt(ready: Ready, net: Net, taught: int | None = None) -> None:
    """Take ``net`` as the teacher: hold its classes against the data's, measure it, refuse it where it is at chance.

    Args:
        taught: for how many epochs the run itself has taught it.
    """
    classes_fit(net, ready, "teacher")
    ready.teacher, ready.teacher_order = net, class_order(net, ready.splits)
    ready.teacher_logits, ready.teacher_measures, ready.sped, ready.places = {}, {}, {}, {}
    for split in ("val", "test"):
        ready.teacher_measures[split], ready.teacher_logits[split] = _measured_once(ready, net, split)
    accuracy, chance = ready.teacher_measures["val"]["top1"], 1 / ready.num_classes
    if accuracy < min(2 * chance, (1 + chance) / 2) and not ready.config.allow_weak_teacher:
        raise ModelError(
            f"the teacher is at chance: {100 * accuracy:.1f} % on the validation data, where guessing gives {100 * chance:.1f} %",
            why=f"this run has taught it, for {taught} epoch(s)"
            if taught
            else "untrained, other class order, or other preprocessing?",
            hint=("teacher.epochs=N, with more of them" if taught else "potstill eval TEACHER --data ...")
            + "; allow_weak_teacher=true to go on all the same",
        )
    introduce("teacher", net, ready, f", top-1 {100 * accuracy:.2f} % val")
    if ready.teacher_order is not None:
        ready.say("         its classes stand in another order: mapped by their names")


def _measured_once(ready: Ready, teacher: Net, split: str) -> tuple[dict[str, float], Tensor]:
    """Measures and logits of a teacher; several runs of one process ask it once, and with a cache it is asked once for all."""
    data, order = getattr(ready.splits, split), ready.teacher_order
    same = (
        teacher.sha256,
        repr(teacher.preprocess),
        None if order is None else tuple(order.tolist()),
        (ready.splits.fingerprint, split, len(data)),
        (ready.config.data.model_dump_json(), ready.fabric.device, ready.config.precision),
    )
    if isinstance(data, LiveData):
        return ready.measure(teacher, split, order)
    if teacher.sha256 is None:
        return _examined(ready, teacher, split)
    if same not in _MEASURED:
        if len(_MEASURED) >= MEASURED_KEPT:
            _MEASURED.clear()
        _MEASURED[same] = _examined(ready, teacher, split)
    measures, logits = _MEASURED[same]
    return dict(measures), logits


def _examined(ready: Ready, teacher: Net, split: str) -> tuple[dict[str, float], Tensor]:
    """Measures and logits of a teacher, beside its cache where there is one."""
    order, cache, fabric = ready.teacher_order, ready.config.cache, ready.fabric
    if not cache.on:
        return ready.measure(teacher, split, order)
    facts = {
        "teacher": fingerprint(teacher.module),
        "prepare": fingerprint(teacher.preprocess) if teacher.preprocess is not None else None,
        "order": None if order is None else order.tolist(),
        "data": ready.splits.fingerprint,
        "split": split,
        "precision": f"{fabric.strategy.precision.precision}, {fabric.device.type}",
    }
    measures, logits = examined(Shelf(cache.dir).exams, facts, lambda: ready.measure(teacher, split, order))
    return measures, logits.to(fabric.device)


def class_order(teacher: Net, splits: Splits) -> Tensor | None:
    """Where the teacher's logits of the data's classes stand, when it names the same classes in another order."""
    if not teacher.classes or list(teacher.classes) == list(splits.classes):
        return None
    if sorted(teacher.classes) != sorted(splits.classes):
        return None  # names that say nothing to each other (LABEL_0 ...): the accuracy will tell
    return torch.tensor([list(teacher.classes).index(c) for c in splits.classes])


def classes_fit(net: Net, ready: Ready, who: str) -> None:
    """Run the net on a few pictures: the right number of classes must come out."""
    tapped = Tapped(net.module, (), net.preprocess)
    was = net.module.training
    try:
        with torch.no_grad():
            logits = tapped.eval()(ready.example())["logits"]
    except (RuntimeError, ValueError, TypeError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ModelError(
            f"the {who} cannot read pictures of shape {ready.splits.shape}: {reason}", hint="data.size=..."
        ) from None
    finally:
        net.module.train(was)
    if logits.ndim != 2 or logits.shape[1] != ready.num_classes:
        raise ModelError(
            f"the {who} says {tuple(logits.shape[1:])} numbers for a picture, the data have {ready.num_classes} classes",
            why="a student never learns from another set of classes in silence",
            hint=f"potstill train --model {net.spec} --data {ready.config.data.source}: a {who} for these classes",
        )
