"""From names and numbers to links: losses are made for the two nets at hand, their shapes filled in by one dry pass."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from potstill.errors import ConfigError, ModelError, did_you_mean
from potstill.losses._maps import map_shape
from potstill.losses.base import Loss
from potstill.losses.ce import CE
from potstill.methods.facts import DATA, is_fact
from potstill.methods.plan import Plan, loss_class, make_plan, make_weight, placed
from potstill.methods.probe import Look, look
from potstill.methods.stages import First, parts, reached
from potstill.methods.supply import NOTICES, SUPPLY, End, Ends
from potstill.schemes.scheme import Link, Scheme
from potstill.schemes.spot_adaptive import SpotAdaptive
from potstill.taps import Tapped, find
from potstill.types import Out


@dataclass
class Built:
    """A scheme made for a pair of nets, and what was decided.

    Attributes:
        scheme: the nets and their links.
        rows: one line a loss, for people: name, loss, weight, settings, spots, shapes, parameters of its adapters, the stage
            before.
        notices: what the user should know.
        before: the stages that come first, in order; they share nets and losses with ``scheme``.
        head: what stands in the place of the student's own classifier when it is delivered; None: nothing.
    """

    scheme: Scheme | SpotAdaptive
    rows: list[dict[str, Any]] = field(default_factory=list)
    notices: list[str] = field(default_factory=list)
    before: list[First] = field(default_factory=list)
    head: Head | None = None


@dataclass(frozen=True)
class Head:
    """A head that a loss brings for the student: ``loss.deployed_head()`` reads the map at ``at``, the one at ``own`` goes."""

    loss: Any
    at: str
    map: tuple[int, int, int]
    own: str | None


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
            ``at``, ``before`` (see ``base.Before``; None: no stage before), and the loss's settings; what it leaves open is taken
            from the preset. A loss of weight 0 is in no stage but the one before.
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
    plans = [make_plan(name, dict(entry), s_look, t_look, teacher is not None) for name, entry in losses.items()]
    s_said = hear(student, [s for p in plans for s, _ in p.pairs], example, prepare.get("student"))
    t_said = s_said
    if teacher is not None:
        taught = [t for p in plans for _, t in p.pairs if p.cls is not CE]
        t_said = hear(teacher, taught, example, prepare.get("teacher"))
    links, rows, notices = [], [], []
    starts: list[tuple[Plan, Link, list[nn.Parameter]]] = []
    head = None
    student_size = sum(p.numel() for p in student.parameters())
    for plan in plans:
        ours, theirs = [s for s, _ in plan.pairs], [t for _, t in plan.pairs]
        s_end = End(student, s_look, ours, [s_said[s] for s in ours], order.get("student"))
        t_end = s_end
        if teacher is not None and plan.cls is not CE:
            t_end = End(teacher, t_look, theirs, [t_said[t] for t in theirs], order.get("teacher"))
        ends = Ends(s_end, t_end, plan.single)
        try:
            first = _first_loss(plan, facts or {}, ends)
            trained = [p for p in first.parameters() if p.requires_grad] if first else []
            made = parts(first) if first else {}
            loss = make_loss(plan.cls, plan.settings, {**(facts or {}), **made}, plan.name, ends)
        except ModelError as error:
            raise placed(error, plan.name) from error
        link = Link(loss, plan.weight, plan.at, None if plan.cls is CE else "teacher", name=plan.name)
        if link.weight:
            links.append(link)
        if plan.before:
            trained = trained if first else [p for p in loss.parameters() if p.requires_grad]
            before = first or loss
            learns = "student" if any(f.startswith("s_") for f in _arguments(type(before))) else None
            starts.append((plan, Link(before, plan.before.weight, plan.at, "teacher", learns, plan.name), trained))
        if link.weight and hasattr(loss, "deployed_head"):
            head = Head(loss, ours[0], map_shape(tuple(s_said[ours[0]].shape[1:])), s_look.head)
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
                **({"before": plan.before.settings()} if plan.before else {}),
            }
        )
        if size > student_size:
            notices.append(
                f"{plan.name}: its adapters have {size:,} parameters, more than the student ({student_size:,})"
            )
        notices += [f"{plan.name}: {said}" for said in _notices(plan, s_look, t_look, made)]
    if not links:
        raise ConfigError("no loss has a weight in the main stage: nothing would be learned", hint="losses.ce.weight=1")
    notices += _unread(links, head)
    nets = {"student": student} if teacher is None else {"student": student, "teacher": teacher}

    def scheme(links: list[Link], **holding: Any) -> Scheme:
        return Scheme(nets, links, ["teacher"] if teacher is not None else [], prepare, order, **holding)

    def holding(links: list[Link], adapters: list[nn.Parameter]) -> dict[str, Any]:
        """What these links train of the student, beside their adapters; what they do not reach is held still."""
        used, still = reached(student, [s for link in links for s in link.at_s], example, prepare.get("student"))
        if any("s_head" in _arguments(type(link.loss)) for link in links) and s_look.head:
            own = find(student, s_look.head)
            used, still = [*used, *own.parameters()], [m for m in still if m is not own]
        return {"trains": [*used, *adapters], "still": still}

    stages = []
    for plan, link, trained in starts:
        b = plan.before
        assert b is not None
        if not b.alone:
            stages.append(First(plan.name, scheme([*(o for o in links if o.name != plan.name), link]), b))
        elif b.trains == "adapters":
            stages.append(First(plan.name, scheme([link], trains=trained, still=[student]), b))
        else:
            stages.append(First(plan.name, scheme([link], **holding([link], trained)), b, tuple(link.at_s)))
    adapters = [p for link in links for p in link.loss.parameters() if p.requires_grad]
    main = scheme(links, **(holding(links, adapters) if head else {}))
    return Built(main, rows, notices, stages, head)


def _arguments(cls: type) -> list[str]:
    return list(inspect.signature(cls.__init__).parameters)  # type: ignore[misc]


def _first_loss(plan: Plan, facts: Mapping[str, Any], ends: Ends) -> Loss | None:
    """The loss of the stage before, where that has one of its own."""
    if plan.before is None or plan.before.use is None:
        return None
    cls, defaults = loss_class(plan.before.use)
    known = _arguments(cls)
    settings = {k: v for k, v in {**defaults, **plan.settings}.items() if k in known}
    return make_loss(cls, settings, facts, f"{plan.name}.before", ends)


def _unread(links: list[Link], head: Head | None) -> Iterator[str]:
    """What the user should know of the student's own classifier."""
    readers = [link.name for link in links if "logits" in link.at_s]
    if head and readers:
        yield f"{', '.join(readers)} reads the student's own classifier, which is not delivered: the teacher's is"
    elif not head and not readers:
        yield "no loss with a weight reads the student's logits: its own classifier learns nothing from them"


def _notices(plan: Plan, s_look: Look, t_look: Look, made: Mapping[str, Any]) -> Iterator[str]:
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
        if fact in NOTICES and fact not in made:
            yield NOTICES[fact]


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
    facts = {p: data[p] if p in data else SUPPLY[p](ends) for p in wanted if is_fact(p) and (p in data or p in SUPPLY)}
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
