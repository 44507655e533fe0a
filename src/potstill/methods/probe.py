"""One look at a net: its stages, its penultimate vector, the shapes of all its layers; and how two nets pair up."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from potstill.errors import ModelError
from potstill.schemes.scheme import At, Pair
from potstill.taps import Tapped, first_tensor
from potstill.types import Shape

BLOCKS = 4  # how many of a transformer's blocks stand for its stages


@dataclass(frozen=True)
class Layer:
    """What one module did in the dry pass: its output's shape without the batch, how often it ran, whether it can be tapped."""

    shape: Shape
    kind: str
    calls: int
    tappable: bool
    parameters: int


@dataclass(frozen=True)
class Look:
    """What a dry pass found of a net.

    Attributes:
        stages: module paths where its stages end, shallow to deep.
        penultimate: the spot of the vector that the last linear layer reads, such as ``fc@in``; None where there is none.
        head: the path of that layer.
        layers: every module that ran, by path, in the order in which they finished.
        logits: shape of the logits without the batch.
    """

    stages: tuple[str, ...]
    penultimate: str | None
    head: str | None
    layers: Mapping[str, Layer]
    logits: Shape


@torch.no_grad()
def look(net: nn.Module, x: Tensor, prepare: nn.Module | None = None) -> Look:
    """Run ``net`` once, in eval mode, on the pictures ``x``, (B, C, H, W), and report; the net is left as it was.

    A net that says where its stages end (``net.stages``, as the zoo's do) is believed. Else a stage ends at the last module
    of each resolution; in a transformer, at the end of each quarter of its largest list of like blocks.
    """
    found: dict[str, tuple[Tensor, int, int]] = {}
    inputs: dict[str, Any] = {}

    def after(path: str, module: nn.Module, args: Any, output: Any) -> None:
        try:
            value = first_tensor(output, path)
        except ModelError:
            return
        calls = found.pop(path, (value, 0, 0))[1]  # popped, so that the dictionary keeps the order of finishing
        found[path] = (value, calls + 1, value._version)
        inputs[path] = args[0] if args else None

    modes = {m: m.training for m in net.modules()}
    hooks = [
        m.register_forward_hook(lambda m, a, o, p=path: after(p, m, a, o)) for path, m in net.named_modules() if path
    ]
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
    modules = dict(net.named_modules())
    layers = {
        path: Layer(
            tuple(value.shape[1:]),
            type(modules[path]).__name__,
            calls,
            calls == 1 and value._version == version,
            sum(p.numel() for p in modules[path].parameters()),
        )
        for path, (value, calls, version) in found.items()
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
    penultimate = f"{head}@in" if head and isinstance(inputs[head], Tensor) and inputs[head].ndim == 2 else None
    stages = getattr(net, "stages", None)
    if not (isinstance(stages, tuple) and all(s in layers for s in stages)):
        stages = _stages(layers, modules)
    return Look(stages, penultimate, head, layers, tuple(logits.shape[1:]))


def _stages(layers: Mapping[str, Layer], modules: Mapping[str, nn.Module]) -> tuple[str, ...]:
    last: dict[Shape, str] = {}
    for path, layer in layers.items():
        if len(layer.shape) == 3 and layer.shape[1] > 1 and layer.tappable:
            last[layer.shape[1:]] = path  # the last to finish at this resolution
    if len(last) > 1:
        return tuple(sorted(last.values(), key=list(layers).index))
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
        at: a rule (``logits``, ``penultimate``, ``last``, ``stage:K`` counted from 1, ``stages``), a module path for both nets,
            a pair ``[student's, teacher's]``, or a list of pairs.

    Raises:
        ModelError: the pair has no such spot.
    """
    if not isinstance(at, str):
        if len(at) == 2 and all(isinstance(a, str) for a in at):
            return (at[0], at[1])
        return [a if isinstance(a, str) else (a[0], a[1]) for a in at]
    if at == "penultimate":
        if not (student.penultimate and teacher.penultimate):
            who = "student" if not student.penultimate else "teacher"
            raise ModelError(
                f"the {who} has no last linear layer that reads a vector",
                hint="losses.NAME.at=[student_spot, teacher_spot]",
            )
        return (student.penultimate, teacher.penultimate)
    if at in ("last", "stages") or at.startswith("stage:"):
        found = pairs(student, teacher)
        if not found:
            raise ModelError(
                "no stages were found in student or teacher", hint="losses.NAME.at=[student_spot, teacher_spot]"
            )
        if at == "stages":
            return list(found)
        return found[-1] if at == "last" else found[min(int(at.removeprefix("stage:")), len(found)) - 1]
    return at
