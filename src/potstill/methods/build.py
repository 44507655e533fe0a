"""From names and numbers to links: losses are made for the two nets at hand, their shapes filled in by one dry pass."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from potstill.errors import ConfigError, ModelError, did_you_mean
from potstill.losses.base import Loss
from potstill.losses.ce import CE
from potstill.methods import PRESETS, preset
from potstill.methods.facts import DATA, is_fact
from potstill.methods.probe import Look, look, spots
from potstill.methods.supply import NOTICES, SUPPLY, End, Ends
from potstill.schemes.schedules import Ramp, Weight
from potstill.schemes.scheme import At, Link, Scheme
from potstill.taps import Tapped
from potstill.types import Out


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
        facts: what a loss may ask for of the data: ``num_classes``, ``num_samples``, ``labels``.

    Raises:
        ConfigError: an unknown loss or setting.
        ModelError: a spot does not exist, or the loss cannot serve these nets.
    """
    prepare, order = prepare or {}, order or {}
    s_look = look(student, example, prepare.get("student"))
    t_look = look(teacher, example, prepare.get("teacher")) if teacher is not None else s_look
    plans = [_plan(name, dict(entry), s_look, t_look, teacher is not None) for name, entry in losses.items()]
    s_said = hear(student, [s for p in plans for s, _ in p.pairs], example, prepare.get("student"))
    t_said = s_said
    if teacher is not None:
        taught = [t for p in plans for _, t in p.pairs if p.cls is not CE]
        t_said = hear(teacher, taught, example, prepare.get("teacher"))
    links, rows, notices = [], [], []
    student_size = sum(p.numel() for p in student.parameters())
    for plan in plans:
        ours, theirs = [s for s, _ in plan.pairs], [t for _, t in plan.pairs]
        s_end = End(student, s_look, ours, [s_said[s] for s in ours], order.get("student"))
        t_end = s_end
        if teacher is not None and plan.cls is not CE:
            t_end = End(teacher, t_look, theirs, [t_said[t] for t in theirs], order.get("teacher"))
        ends = Ends(s_end, t_end, plan.single)
        try:
            loss = make_loss(plan.cls, plan.settings, facts or {}, plan.name, ends)
        except ModelError as error:
            raise _placed(error, plan.name) from error
        links.append(Link(loss, plan.weight, plan.at, None if plan.cls is CE else "teacher", name=plan.name))
        size = sum(p.numel() for p in loss.parameters())
        rows.append(
            {
                "name": plan.name,
                "use": plan.use,
                "weight": plan.weight if isinstance(plan.weight, float | int) else vars(plan.weight),
                "settings": plan.settings,
                "at": [list(pair) for pair in plan.pairs],
                "shapes": [[list(s.shape[1:]), list(t.shape[1:])] for s, t in zip(s_end.said, t_end.said, strict=True)],
                "parameters": size,
            }
        )
        if size > student_size:
            notices.append(
                f"{plan.name}: its adapters have {size:,} parameters, more than the student ({student_size:,})"
            )
        notices += [f"{plan.name}: {said}" for said in _notices(plan, s_look, t_look)]
    if not any("logits" in link.at_s and link.weight for link in links):
        notices.append("no loss with a weight reads the student's logits: its own classifier learns nothing from them")
    nets = {"student": student} if teacher is None else {"student": student, "teacher": teacher}
    scheme = Scheme(nets, links, ["teacher"] if teacher is not None else [], prepare, order)
    return Built(scheme, rows, notices)


@dataclass(frozen=True)
class Plan:
    """A loss that is to be made: the entry of a configuration, completed by its preset, and the spots that it means here."""

    name: str
    use: str
    cls: type[Loss]
    settings: dict[str, Any]
    weight: Weight
    rule: Any
    at: At

    @property
    def single(self) -> bool:
        return isinstance(self.at, str | tuple)

    @property
    def pairs(self) -> list[tuple[str, str]]:
        listed = [self.at] if isinstance(self.at, str | tuple) else list(self.at)
        return [(spot, spot) if isinstance(spot, str) else (spot[0], spot[1]) for spot in listed]


def _plan(name: str, entry: dict[str, Any], s_look: Look, t_look: Look, taught: bool) -> Plan:
    use = entry.pop("use", None) or name
    cls, defaults = loss_class(use)
    usual_at, usual_weight = defaults.pop("at", "logits"), defaults.pop("weight", 1.0)
    if not taught and cls is not CE:
        raise ConfigError(f"loss {name!r} needs a teacher", hint="--teacher MODEL")
    rule = entry.pop("at", None) or usual_at
    weight = entry.pop("weight", None)
    try:
        at = spots(rule, s_look, t_look)
    except ModelError as error:
        raise _placed(error, name) from error
    return Plan(
        name, use, cls, {**defaults, **entry}, make_weight(usual_weight if weight is None else weight), rule, at
    )


def _placed(error: ModelError, name: str) -> ModelError:
    """The same refusal, with the loss that it concerns."""
    hint = error.hint and error.hint.replace("losses.NAME", f"losses.{name}")
    return ModelError(error.what, where=error.where or f"losses.{name}", why=error.why, hint=hint)


def _notices(plan: Plan, s_look: Look, t_look: Look) -> Iterator[str]:
    """What the user should know of the spots that were found, and of facts that are not what was published."""
    rule = plan.rule if isinstance(plan.rule, str) else ""
    if {"last", "stages"} & {*re.split(r"[+@]", rule)} and len(s_look.stages) != len(t_look.stages):
        yield (
            f"the student has {len(s_look.stages)} stages, the teacher {len(t_look.stages)}; paired: "
            + ", ".join(f"{s} - {t}" for s, t in plan.pairs)
        )
    sides = [("teacher", t_look, [t for _, t in plan.pairs]), ("student", s_look, [s for s, _ in plan.pairs])]
    for who, seen, at in sides[: 2 if "@pre" in rule else "@t_pre" in rule]:
        if bare := [spot for spot in at if spot in seen.stages and not seen.layers[spot].signed]:
            yield f"no module of the {who} is the activation that ends {', '.join(bare)}: it is heard after its activation"
    for fact in inspect.signature(plan.cls.__init__).parameters:
        if fact in NOTICES:
            yield NOTICES[fact]


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


def make_weight(weight: Any) -> Weight:
    """A number, or a :class:`Ramp` from its mapping in a configuration."""
    if isinstance(weight, Mapping):
        return Ramp(
            weight["from"],
            weight["to"],
            weight.get("start", 0.0),
            weight.get("end", 1.0),
            weight.get("shape", "linear"),
        )
    return weight if isinstance(weight, Ramp) else float(weight)


def make_loss(cls: type[Loss], settings: Mapping[str, Any], data: Mapping[str, Any], name: str, ends: Ends) -> Loss:
    """An instance with its settings, and the facts of data and nets that its constructor asks for.

    A fact that nobody knows is an error, unless the constructor has a default for it.
    """
    wanted = {p.name: p for p in inspect.signature(cls.__init__).parameters.values() if p.name != "self"}
    known = [p for p in wanted if not is_fact(p)]
    for key in settings:
        if key not in known:
            raise ConfigError(
                f"losses.{name}: no such setting {key!r}.{did_you_mean(key, known)} Known: {', '.join(known) or 'none'}."
            )
    facts = {p: SUPPLY[p](ends) if p in SUPPLY else data[p] for p in wanted if p in SUPPLY or (p in DATA and p in data)}
    missing = [p for p in wanted if is_fact(p) and p not in facts and wanted[p].default is inspect.Parameter.empty]
    if unknown := [p for p in missing if p not in DATA]:
        raise ConfigError(
            f"loss {name!r} asks for {', '.join(unknown)}, which nobody knows."
            f"{did_you_mean(unknown[0], [*SUPPLY, *DATA])} Arguments that begin with s_ or t_ are facts of the nets: "
            f"{', '.join(SUPPLY)}.",
            hint="rename it, or give it a default",
        )
    if missing:
        raise ConfigError(f"loss {name!r} needs {', '.join(missing)} of the data, which this call does not give")
    return cls(**settings, **facts)


@torch.no_grad()
def hear(net: nn.Module, at: Sequence[str], x: Tensor, prepare: nn.Module | None) -> Out:
    """What a net says of the pictures ``x`` at these spots, in eval mode; the net is left as it was."""
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
    return said


__all__ = ["Built", "Look", "build", "hear", "loss_class", "make_loss", "make_weight"]
