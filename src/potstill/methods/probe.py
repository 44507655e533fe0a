"""One look at a net: its stages, its penultimate vector, the shapes of all its layers; and how two nets pair up."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from potstill.errors import ModelError
from potstill.methods import trace
from potstill.schemes.scheme import At, Pair
from potstill.taps import Spot, Tapped, first_tensor
from potstill.types import Shape

BLOCKS = 4  # how many of a transformer's blocks stand for its stages
RULE = re.compile(
    r"(?P<what>penultimate|pooled|stem|(?P<stage>last|stages|stage:\d+))(?(stage)(?:@(?P<where>pre|t_pre))?)"
)
LACKS = {
    "penultimate": "no last linear layer that reads a vector",
    "pooled": "no map whose average over positions its last linear layer reads",
}
HINTS = {
    "penultimate": "sp, which compares the last maps, or losses.NAME.at=[student_spot, teacher_spot]",
    "pooled": "srrl or fitnet, which need no such map, or losses.NAME.at=[student_spot, teacher_spot]",
}


@dataclass(frozen=True)
class Layer:
    """What one module did in the dry pass.

    Attributes:
        shape: of its output, without the batch.
        kind: name of its class.
        calls: how often it ran.
        tappable: whether its output can be a spot: it ran once and nothing overwrote it.
        parameters: how many it has.
        hears: whether its input can be a spot, ``path@in``, without a copy: it ran once and nothing overwrote that.
        signed: whether its output has negative values.
    """

    shape: Shape
    kind: str
    calls: int
    tappable: bool
    parameters: int
    hears: bool = True
    signed: bool = True


@dataclass(frozen=True)
class Look:
    """What a dry pass found of a net.

    Attributes:
        stages: module paths where its stages end, shallow to deep.
        penultimate: the spot of the vector that the last linear layer reads, such as ``fc@in``; None where there is none.
        head: the path of that layer.
        layers: every module that ran, by path, in the order in which they finished.
        logits: shape of the logits without the batch.
        stem: the spot in front of the first stage; None where that reads the picture.
        before: the spot before the activation that ends a stage, by stage; before the one that opens the next where only that
            one's BatchNorm stands between them; the stage itself where no module is that.
        norms: the BatchNorm before that activation, by spot.
        pooled: the last map whose average over positions is the penultimate vector; None where there is none.
    """

    stages: tuple[str, ...]
    penultimate: str | None
    head: str | None
    layers: Mapping[str, Layer]
    logits: Shape
    stem: str | None = None
    before: Mapping[str, str] = field(default_factory=dict)
    norms: Mapping[str, str] = field(default_factory=dict)
    pooled: str | None = None


@torch.no_grad()
def look(net: nn.Module, x: Tensor, prepare: nn.Module | None = None) -> Look:
    """Run ``net`` once, in eval mode, on the pictures ``x``, (B, C, H, W), and report; the net is left as it was.

    A net that says where its stages end (``net.stages``, as the zoo's do) is believed, and so is its ``stem``. Else a stage
    ends at the last module of each resolution; in a transformer, at the end of each quarter of its largest list of like blocks.
    """
    every, picture, logits = _dry_pass(net, x, prepare)
    modules, calls = dict(net.named_modules()), trace.last_calls(every)
    layers = {
        path: Layer(
            tuple(c.output.shape[1:]),
            type(modules[path]).__name__,
            c.nth,
            c.nth == 1 and c.output._version == c.output_version,
            sum(p.numel() for p in modules[path].parameters()),
            c.nth == 1 and isinstance(c.given, Tensor) and c.given._version == c.given_version,
            bool((c.output < 0).any()),
        )
        for path, c in calls.items()
    }
    head = next(
        (
            path
            for path in reversed(layers)
            if isinstance(modules[path], nn.Linear)
            and layers[path].calls == 1
            and layers[path].shape == tuple(logits.shape[1:])
        ),
        None,
    )
    vector = calls[head].given if head else None
    vector = vector if isinstance(vector, Tensor) and vector.ndim == 2 else None
    stages, stem = getattr(net, "stages", None), getattr(net, "stem", None)
    if not (isinstance(stages, tuple) and all(s in layers for s in stages)):
        stages = _stages(layers, modules, calls, (x if picture is None else picture).shape[2:])
    if not (isinstance(stem, str) and stem in layers and layers[stem].tappable):
        first = stages[0] if stages and layers[stages[0]].hears else None
        stem = f"{first}@in" if first and calls[first].given is not picture else None
    before, norms = dict(zip(stages, stages, strict=True)), {}
    for stage in stages:
        if act := trace.before(stage, every, modules):
            before[stage] = spot = str(Spot(act.path, True, act.nth if calls[act.path].nth > 1 else None))
            if norm := trace.norm(act, every, modules):
                norms[spot] = norm
    return Look(
        stages,
        f"{head}@in" if vector is not None else None,
        head,
        layers,
        tuple(logits.shape[1:]),
        stem,
        before,
        norms,
        trace.pooled(vector, calls, [path for path, layer in layers.items() if layer.tappable]),
    )


def _dry_pass(net: nn.Module, x: Tensor, prepare: nn.Module | None) -> tuple[list[trace.Call], Tensor | None, Tensor]:
    """Every call of every module, in the order in which they finished; what the net itself was given; its logits."""
    calls: list[trace.Call] = []
    ran: Counter[str] = Counter()
    running: list[tuple[str, int]] = []  # path, and the version of what it was given
    given: list[Tensor] = []

    def ahead(path: str, module: nn.Module, args: Any) -> None:
        tensor = args[0] if args and isinstance(args[0], Tensor) else None
        running.append((path, -1 if tensor is None else tensor._version))
        if not path and tensor is not None:
            given.append(tensor)

    def after(path: str, module: nn.Module, args: Any, output: Any) -> None:
        version = running.pop()[1]
        try:
            value = first_tensor(output, path)
        except ModelError:
            return
        ran[path] += 1
        inside, read = running[-1][0], args[0] if args else None
        calls.append(trace.Call(path, ran[path], inside, value, read, value._version, version))

    modes = {m: m.training for m in net.modules()}
    hooks = [m.register_forward_pre_hook(partial(ahead, path)) for path, m in net.named_modules()]
    hooks += [m.register_forward_hook(partial(after, path)) for path, m in net.named_modules() if path]
    try:
        net.eval()
        logits = Tapped(net, (), prepare)(x)["logits"]
    except (RuntimeError, ValueError, TypeError) as error:
        message = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ModelError(
            f"{type(net).__name__} cannot read pictures of shape {tuple(x.shape[1:])}: {message}",
            hint="data.size=..., or a net for this size",
        ) from error
    finally:
        for hook in hooks:
            hook.remove()
        for module, training in modes.items():
            module.training = training
    return calls, given[0] if given else None, logits


def _stages(
    layers: Mapping[str, Layer], modules: trace.Modules, calls: Mapping[str, trace.Call], picture: Sequence[int]
) -> tuple[str, ...]:
    last: dict[Shape, str] = {}
    tappable = [path for path, layer in layers.items() if layer.tappable]
    for path in tappable:
        _, h, w = layers[path].shape if len(layers[path].shape) == 3 else (0, 0, 0)
        # what has another aspect than the picture is no map (C, H, W), but (H, W, C)
        if h > 1 and abs(h * picture[1] - w * picture[0]) < max(picture):
            last[h, w] = path  # the last to finish at this resolution
    if len(last) > 1:
        sizes = sorted(last, reverse=True)
        ends = {trace.end(last[a], b, calls, tappable) for a, b in zip(sizes, [*sizes[1:], None], strict=True)}
        return tuple(sorted(ends, key=list(layers).index))
    best: list[str] = []
    for path, module in modules.items():
        if isinstance(module, nn.ModuleList | nn.Sequential):
            blocks = [f"{path}.{name}" if path else name for name, _ in module.named_children()]
            shapes = {layers[b].shape if b in layers and layers[b].tappable else () for b in blocks}
            if len(shapes) == 1 and len(next(iter(shapes))) in (2, 3) and len(blocks) > len(best):
                best = blocks
    if best:
        return tuple(
            dict.fromkeys(
                best[(i + 1) * len(best) // BLOCKS - 1] for i in range(BLOCKS) if (i + 1) * len(best) >= BLOCKS
            )
        )
    return tuple(last.values())


def pairs(student: Look, teacher: Look) -> list[Pair]:
    """The student's stages and their partners in the teacher, shallow to deep.

    As many stages on both sides pair up in order; else each stage of the shallower list takes the deepest unused partner
    of its own resolution, or, where there is none, its place counted from the end.
    """
    ss, ts = list(student.stages), list(teacher.stages)
    if len(ss) == len(ts):
        return list(zip(ss, ts, strict=True))
    few, many, swapped = (ss, ts, False) if len(ss) < len(ts) else (ts, ss, True)
    size_few, size_many = (student, teacher) if not swapped else (teacher, student)
    chosen: list[tuple[str, str]] = []
    end = len(many)
    for i in range(len(few) - 1, -1, -1):
        reachable = many[i:end]  # one partner must be left for each stage before
        like = [m for m in reachable if size_many.layers[m].shape[1:] == size_few.layers[few[i]].shape[1:]]
        partner = (like or reachable)[-1]
        end = many.index(partner)
        chosen.append((partner, few[i]) if swapped else (few[i], partner))
    return chosen[::-1]


def spots(at: str | Sequence[Any], student: Look, teacher: Look) -> At:
    """The spots that ``at`` means for this pair of nets.

    Args:
        at: a module path for both nets, a pair ``[student's, teacher's]``, a list of pairs, or a rule:

            * ``logits``; ``penultimate``: the vector that the last linear layer reads; ``pooled``: the last map, whose average
              over positions that vector is;
            * ``last``, ``stage:K`` (counted from 1), ``stages`` (a list): where stages end. ``last@pre`` and so on: before the
              activation that ends the stage, or before that of the BatchNorm that reads it (a wide ResNet), where a module is
              that; ``stages@t_pre``: that of the teacher alone;
            * rules joined by ``+``, a list: ``stages+penultimate``, ``stem+stages`` (the stem is what stands in front of the
              first stage; left out where one of the nets has none).

    Raises:
        ModelError: the pair has no such spot.
    """
    if not isinstance(at, str):
        if len(at) == 2 and all(isinstance(a, str) for a in at):
            return (at[0], at[1])
        return [a if isinstance(a, str) else (a[0], a[1]) for a in at]
    rules = [RULE.fullmatch(part) for part in at.split("+")]
    if not all(rules):
        return at
    found = [pair for rule in rules if rule for pair in _by_rule(rule["what"], rule["where"], student, teacher)]
    return found[0] if len(found) == len(rules) == 1 and not at.startswith("stages") else found


def _by_rule(what: str, where: str | None, student: Look, teacher: Look) -> list[Pair]:
    both = {"student": student, "teacher": teacher}
    if what in LACKS:
        for who, net in both.items():
            if getattr(net, what) is None:
                raise ModelError(f"the {who} has {LACKS[what]}", hint=HINTS[what])
        return [(getattr(student, what), getattr(teacher, what))]
    if what == "stem":
        return [(student.stem, teacher.stem)] if student.stem and teacher.stem else []
    found = pairs(student, teacher)
    if not found:
        raise ModelError(
            "no stages were found in student or teacher", hint="losses.NAME.at=[student_spot, teacher_spot]"
        )
    if what != "stages":
        found = [found[-1] if what == "last" else found[min(int(what.removeprefix("stage:")), len(found)) - 1]]
    if where == "pre":
        found = [(student.before[s], t) for s, t in found]
    return [(s, teacher.before[t]) for s, t in found] if where else found
