"""From names and numbers to links: losses are made for the two nets at hand, their shapes filled in by one dry pass."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from potstill.errors import ConfigError, ModelError, did_you_mean
from potstill.losses.base import Loss
from potstill.losses.ce import CE
from potstill.methods import PRESETS, preset
from potstill.methods.probe import Look, look, spots
from potstill.schemes.schedules import Ramp, Weight
from potstill.schemes.scheme import Link, Scheme
from potstill.taps import Tapped
from potstill.types import Shape


@dataclass
class Built:
    """A scheme made for a pair of nets, and what was decided.

    Attributes:
        scheme: the nets and their links.
        rows: one line a link, for people: name, loss, weight, settings, spots, shapes, parameters of its adapters.
        notices: what the user should know.
    """

    scheme: Scheme
    rows: list[dict[str, Any]] = field(default_factory=list)
    notices: list[str] = field(default_factory=list)


def build(
    student: nn.Module,
    teacher: nn.Module | None,
    losses: Mapping[str, Mapping[str, Any]],
    example: Tensor,
    *,
    prepare: Mapping[str, nn.Module | None] | None = None,
    order: Mapping[str, Tensor | None] | None = None,
    facts: Mapping[str, Any] | None = None,
) -> Built:
    """The scheme in which ``teacher`` teaches ``student`` by ``losses``.

    Args:
        losses: by name, as a configuration has them: ``{"ce": {"weight": 0.1}, "kd": {"temperature": 4.0}}``. Each entry
            may say ``use`` (a method, or ``file.py:Class``; else its name), ``weight`` (a number, or ``{"from": 4, "to": 1}``),
            ``at``, and the loss's settings; what it leaves open is taken from the preset.
        example: a few pictures, (B, C, H, W), in [0, 1]; two or more.
        prepare: the nets' own normalisations, ``{"student": ..., "teacher": ...}``.
        order: where the data's classes stand among a net's, where it has them in another order (see ``Tapped``).
        facts: what a loss may ask for beside shapes: ``num_classes``, ``num_samples``, ``labels``.

    Raises:
        ConfigError: an unknown loss or setting.
        ModelError: a spot does not exist, or the loss cannot serve these nets.
    """
    prepare = prepare or {}
    s_look = look(student, example, prepare.get("student"))
    t_look = look(teacher, example, prepare.get("teacher")) if teacher is not None else s_look
    links, rows, notices = [], [], []
    student_size = sum(p.numel() for p in student.parameters())
    for name, entry in losses.items():
        entry = dict(entry)
        use = entry.pop("use", None) or name
        cls, defaults = loss_class(use)
        usual_at, usual_weight = defaults.pop("at", "logits"), defaults.pop("weight", 1.0)
        at = entry.pop("at", None) or usual_at
        weight = make_weight(entry.pop("weight", None), usual_weight)
        labels_teach = cls is CE
        if teacher is None and not labels_teach:
            raise ConfigError(f"loss {name!r} needs a teacher", hint="--teacher MODEL")
        where = spots(at, s_look, t_look)
        listed = [where] if isinstance(where, str | tuple) else list(where)
        both = [(w, w) if isinstance(w, str) else (w[0], w[1]) for w in listed]
        s_shapes = shapes(student, [s for s, _ in both], example, prepare.get("student"))
        t_shapes = shapes(
            teacher or student, [t for _, t in both], example, prepare.get("teacher" if teacher else "student")
        )
        single = isinstance(where, str | tuple)
        known = {
            **(facts or {}),
            "s_shape": s_shapes[0] if single else s_shapes,
            "t_shape": t_shapes[0] if single else t_shapes,
        }
        settings = {**defaults, **entry}
        loss = make_loss(cls, settings, known, name)
        link = Link(loss, weight, where, None if labels_teach else "teacher", name=name)
        links.append(link)
        size = sum(p.numel() for p in loss.parameters())
        if size > student_size:
            notices.append(f"{name}: its adapters have {size:,} parameters, more than the student ({student_size:,})")
        rows.append(
            {
                "name": name,
                "use": use,
                "weight": weight if isinstance(weight, float | int) else vars(weight),
                "settings": settings,
                "at": [list(b) for b in both],
                "shapes": [[list(s), list(t)] for s, t in zip(s_shapes, t_shapes, strict=True)],
                "parameters": size,
            }
        )
        if listed != ["logits"] and at in ("stages", "last") and len(s_look.stages) != len(t_look.stages):
            notices.append(
                f"{name}: the student has {len(s_look.stages)} stages, the teacher {len(t_look.stages)}; paired: "
                + ", ".join(f"{s} - {t}" for s, t in both)
            )
    nets = {"student": student} if teacher is None else {"student": student, "teacher": teacher}
    scheme = Scheme(nets, links, ["teacher"] if teacher is not None else [], prepare, order)
    return Built(scheme, rows, notices)


def loss_class(use: str) -> tuple[type[Loss], dict[str, Any]]:
    """The class that ``use`` names, and its preset's defaults: settings, ``at``, ``weight``."""
    if use == "ce":
        return CE, {}
    if use in PRESETS or ":" not in use:
        p = preset(use)
        module, _, attribute = p.loss.partition(":")
        return getattr(importlib.import_module(module), attribute), {**p.settings, "at": p.at, "weight": p.weight}
    place, _, attribute = use.rpartition(":")
    if place.endswith(".py"):
        if not Path(place).is_file():
            raise ConfigError(f"no such file: {place}", where=f"use: {use}")
        spec = importlib.util.spec_from_file_location(Path(place).stem, place)
        assert spec is not None
        assert spec.loader is not None
        found = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(found)
    else:
        found = importlib.import_module(place)
    cls = getattr(found, attribute, None)
    if not (isinstance(cls, type) and issubclass(cls, Loss)):
        raise ConfigError(
            f"{use!r} must name a class derived from potstill.losses.Loss{did_you_mean(attribute, dir(found))}"
        )
    return cls, {}


def make_weight(weight: Any, default: float) -> Weight:
    """A number, or a :class:`Ramp` from its mapping in a configuration."""
    if weight is None:
        return default
    if isinstance(weight, Mapping):
        return Ramp(
            weight["from"],
            weight["to"],
            weight.get("start", 0.0),
            weight.get("end", 1.0),
            weight.get("shape", "linear"),
        )
    return weight if isinstance(weight, Ramp) else float(weight)


FACTS = ("s_shape", "t_shape", "num_classes", "num_samples", "labels")


def make_loss(cls: type[Loss], settings: Mapping[str, Any], facts: Mapping[str, Any], name: str) -> Loss:
    """An instance with its settings, and the facts that its constructor asks for."""
    wanted = inspect.signature(cls.__init__).parameters
    known = [p for p in wanted if p != "self" and p not in FACTS]
    for key in settings:
        if key not in known:
            raise ConfigError(
                f"losses.{name}: no such setting {key!r}.{did_you_mean(key, known)} Known: {', '.join(known) or 'none'}."
            )
    missing = [p for p in wanted if p in FACTS and p not in facts]
    if missing:
        raise ConfigError(f"loss {name!r} needs {', '.join(missing)} of the data, which this call does not give")
    return cls(**settings, **{p: facts[p] for p in wanted if p in facts})


@torch.no_grad()
def shapes(net: nn.Module, at: Sequence[str], x: Tensor, prepare: nn.Module | None) -> list[Shape]:
    """The shape of one sample at each spot, found by one tapped pass in eval mode; the net is left as it was."""
    modes = {m: m.training for m in net.modules()}
    try:
        said = Tapped(net.eval(), at, prepare)(x)
    finally:
        for module, training in modes.items():
            module.training = training
    for spot in at:
        if said[spot].ndim < 2 or len(said[spot]) != len(x):
            raise ModelError(
                f"the output at {spot!r} has shape {tuple(said[spot].shape)}: its first axis is not the batch"
            )
    return [tuple(said[spot].shape[1:]) for spot in at]


__all__ = ["Built", "Look", "build", "loss_class", "make_loss", "make_weight", "shapes"]
