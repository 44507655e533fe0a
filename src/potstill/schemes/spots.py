"""Making a ready scheme spot-adaptive, by looking at its nets."""

from __future__ import annotations

from dataclasses import fields
from itertools import pairwise
from typing import Any, Literal

import torch
from torch import Tensor

from potstill.errors import ConfigError, ModelError, did_you_mean
from potstill.losses.ce import CE
from potstill.schemes.parts import additive, relational
from potstill.schemes.policy import Policy
from potstill.schemes.routing import Branch, Routing, prepared
from potstill.schemes.scheme import Link, Pair, Scheme
from potstill.schemes.spot_adaptive import QUIRKS, Options, SpotAdaptive, Spotted
from potstill.segments import Trace, evaluating
from potstill.taps import Frozen, Tapped
from potstill.types import Batch, Out

LOGITS = ("logits", "logits")


def spot_adaptive(
    scheme: Scheme,
    example: Tensor,
    *,
    teacher: Literal["frozen", "joint", "scratch"] = "frozen",
    authors: bool = False,
    **options: Any,
) -> SpotAdaptive:
    """Spot-adaptive distillation round a scheme of a ``student`` and a ``teacher``.

    Every pair of spots of the links between the two becomes a branch, and so do the logits. The policy reads the penultimate
    vectors; of a net without one, the logits.

    Args:
        scheme: the ready scheme, as ``methods.build`` makes it. Its nets, links and losses are used, not copied.
        example: a few pictures, (B, C, H, W), in [0, 1]; two or more.
        teacher: ``frozen``; ``joint``: trained along, from the weights that it has, by a link ``teacher_ce`` with the labels;
            ``scratch``: the same from newly drawn weights. (The paper found both to hurt.)
        authors: start from :data:`QUIRKS` instead of the defaults.
        options: see :class:`Options`.

    Raises:
        ConfigError: no such option, or a value that it cannot have.
        ModelError: a net cannot be cut at its spots, or the scheme is not of this form.
    """
    chosen = _options({**(QUIRKS if authors else {}), **options})
    for name in ("student", "teacher"):
        if name not in scheme.nets:
            raise ModelError(
                f"spot-adaptive distillation needs a net {name!r}; the scheme has {', '.join(scheme.nets)}"
            )
    if any(link.name == "routing" for link in scheme.links):
        raise ModelError("a link is called 'routing', as the loss that teaches the policy", hint="name=...")
    taught = [link for link in scheme.links if (link.student, link.teacher) == ("student", "teacher")]
    if not taught:
        raise ModelError("no link goes from teacher to student: there is nothing to decide", hint="--method kd")
    if teacher != "frozen":
        _unfreeze(scheme, scratch=teacher == "scratch")
    spots, vectors = _spots(scheme, taught, example)
    said = _heard(scheme, spots, vectors, example)
    classes = said["teacher"]["logits"].shape[1]
    ids = torch.arange(len(example))
    batch = Batch(example.cpu(), ids % classes, ids, torch.zeros_like(ids))
    links = {link.name: _spotted(link, spots, said, batch, chosen) for link in taught}
    policy = routing = None
    if chosen.routes:
        v_s, v_t = said["student"][vectors[0]], said["teacher"][vectors[1]]
        policy = Policy(
            v_s[0].numel() + v_t[0].numel(), len(spots), hidden=chosen.hidden, initial_bias=chosen.initial_bias
        )
        branches = [
            Branch(s, t, tuple(said["student"][s].shape[1:]), tuple(said["teacher"][t].shape[1:]))
            for s, t in spots[:-1]
        ]
        routing = Routing(_tapped(scheme, "student"), _tapped(scheme, "teacher"), branches, example, chosen.bridges)
        device = said["student"]["logits"].device
        policy, routing = policy.to(device), routing.to(device)
    return SpotAdaptive(scheme, spots, vectors, links, chosen, policy, routing).train(scheme.training)


def _options(given: dict[str, Any]) -> Options:
    known = {f.name: f for f in fields(Options)}
    for key in given:
        if key not in known:
            raise ConfigError(f"spots: no such option {key!r}.{did_you_mean(key, known)} Known: {', '.join(known)}.")
    options = Options(**given)
    choices = {
        "rule": ("adaptive", "always", "random", "anti", "none", "no_gradient"),
        "bridges": ("plain", "norm", "norm+relu"),
        "relation": ("masked", "subset"),
    }
    for key, values in choices.items():
        value = getattr(options, key)
        if value not in values:
            raise ConfigError(
                f"spots.{key}: {value!r} is none of {', '.join(values)}.{did_you_mean(str(value), values)}"
            )
    if not 0 <= options.share <= 1:
        raise ConfigError(f"spots.share must be in [0, 1], got {options.share}")
    if not options.gamma > 0 or options.hidden < 0:
        raise ConfigError(f"spots.gamma must be above 0 and hidden at least 0, got {options.gamma}, {options.hidden}")
    return options


def _tapped(scheme: Scheme, name: str) -> Tapped:
    net = scheme.nets[name]
    net = net.net if isinstance(net, Frozen) else net
    if not isinstance(net, Tapped):
        raise ModelError(
            f"the routing network runs inside the {name}, which this scheme does not have live ({type(net).__name__})",
            hint="a scheme without a cache of the teacher",
        )
    return net


def _unfreeze(scheme: Scheme, scratch: bool) -> None:
    """Let the teacher be trained along with the student."""
    tapped = _tapped(scheme, "teacher")
    if scratch:
        for module in tapped.modules():
            if callable(getattr(module, "reset_parameters", None)):
                module.reset_parameters()  # type: ignore[operator]
    scheme.nets["teacher"] = tapped.train(scheme.training)
    for p in tapped.parameters():
        p.requires_grad_(True)
    scheme.trains += tapped.parameters()
    scheme.links.append(Link(CE(), 1.0, teacher=None, student="teacher", name="teacher_ce"))


def _spots(scheme: Scheme, taught: list[Link], example: Tensor) -> tuple[list[Pair], Pair]:
    """The pairs of spots in the order of the student, the logits last; and the spots that the policy reads."""
    nets = {name: _tapped(scheme, name) for name in ("student", "teacher")}
    traces = {}
    for name, net in nets.items():
        with torch.no_grad():
            x = prepared(net, example.to(next(net.parameters()).device))
        traces[name] = Trace(net.net, x)
    pairs = {pair for link in taught for pair in zip(link.at_s, link.at_t, strict=True)}
    inner = [pair for pair in pairs if "logits" not in pair]
    order = sorted(inner, key=lambda p: (traces["student"].time(p[0]), traces["teacher"].time(p[1]), p))
    for a, b in pairwise(order):
        if traces["teacher"].time(b[1]) < traces["teacher"].time(a[1]):
            raise ModelError(
                f"the pairs {' - '.join(a)} and {' - '.join(b)} cross: the student gets to the first of them first, the "
                "teacher to the second, so no way leads through both nets",
                hint="pair the spots in one order, losses.NAME.at=[[student_spot, teacher_spot], ...]",
            )
    return [*order, LOGITS], (traces["student"].penultimate() or "logits", traces["teacher"].penultimate() or "logits")


def _heard(scheme: Scheme, spots: list[Pair], vectors: Pair, example: Tensor) -> dict[str, Out]:
    """What both nets say of the example; from now on the scheme also hears the vectors that the policy reads."""
    said: dict[str, Out] = {}
    for i, name in enumerate(("student", "teacher")):
        old, outer = _tapped(scheme, name), scheme.nets[name]
        new = Tapped(old.net, [*old.spots, *(s[i] for s in spots), vectors[i]], old.prepare, old.order)
        new.train(old.training)
        scheme.nets[name] = Frozen(new) if isinstance(outer, Frozen) else new
        with evaluating(new), torch.no_grad():
            said[name] = new(example.to(next(new.parameters()).device))
    return said


def _spotted(link: Link, spots: list[Pair], said: dict[str, Out], batch: Batch, options: Options) -> Spotted:
    """How to weigh a link; its loss is tried on the CPU or where it is."""
    pairs = zip(link.at_s, link.at_t, strict=True)
    at = [spots.index(LOGITS if "logits" in pair else pair) for pair in pairs]
    s, t = [said["student"][spot] for spot in link.at_s], [said["teacher"][spot] for spot in link.at_t]
    device = s[0].device
    batch = Batch(batch.x.to(device), batch.y.to(device), batch.ids.to(device), batch.views.to(device))
    split = len(at) > 1 and additive(link.loss, s, t, batch)
    return Spotted(at, split, options.relation == "subset" and relational(link.loss, s, t, batch, link.single))


__all__ = ["spot_adaptive"]
