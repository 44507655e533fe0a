"""Which channels of a net can go, and which must go together: the only file that knows the pruning library.

The library (Torch-Pruning, DepGraph, arXiv 2301.12900) follows autograd to see which layers share channels. It guesses where
it cannot know: a shuffle of channels, a fixed number in a ``view``. So every group is put to a proof before it is used: a net
without some channels must say exactly what the whole net says when nobody listens to these channels.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd
from torch.nn.utils.parametrize import is_parametrized

from potstill.compress.extra import need
from potstill.errors import ModelError
from potstill.models.surgery import attributes
from potstill.taps import first_tensor

Importance = Literal["magnitude", "bn", "taylor"]
Plan = Mapping[str, Sequence[int]]
"""What is taken: of which group (by its root), which channels."""
TOLERANCE = 1e-6
"""Largest difference of the proof, in double precision, as a share of the largest logit."""
OUTPUTS = "its channels are the outputs of the net"


@dataclass(frozen=True)
class Channels:
    """Channels that can only go together.

    Attributes:
        root: the layer that makes them, by its path.
        count: how many there are.
        parts: in how many equal parts they are grouped; a channel goes with its fellows in the other parts.
        layers: all layers whose output channels these are.
    """

    root: str
    count: int
    parts: int
    layers: tuple[str, ...]

    @property
    def units(self) -> int:
        """How many can be chosen."""
        return self.count // self.parts

    def of(self, units: Iterable[int]) -> list[int]:
        """The channels of some units."""
        chosen = list(units)
        return sorted(u + self.units * part for part in range(self.parts) for u in chosen)


def channels(module: nn.Module, x: Tensor) -> tuple[list[Channels], dict[str, str]]:
    """The groups of channels of a net that can go.

    Args:
        module: is not changed.
        x: one or more pictures as it reads them.

    Returns:
        The groups, each proven; and why the other layers must stay, by their path.

    Raises:
        MachineError: torch-pruning is not installed.
        ModelError: the net cannot be traced.
    """
    try:
        graph = _graph(copy.deepcopy(module), x)
    except _Untraced as e:
        raise ModelError(
            f"{type(module).__name__} cannot be pruned: its channels cannot be followed through {_culprit(module, x)} ({e})",
            hint="--lowrank and --quantize ask nothing of the graph",
        ) from e
    found: list[Channels] = []
    refused: dict[str, str] = {}
    for group in graph.get_all_groups(root_module_types=[_ConvNd, nn.Linear]):
        made, why = _described(graph, group)
        if why:
            refused[made.root] = why
        else:
            found.append(made)
    proven, failed = _proven(module, x, found)
    return proven, refused | failed


def scores(
    module: nn.Module,
    x: Tensor,
    groups: Iterable[Channels],
    importance: Importance,
    loss: Callable[[nn.Module], Any] | None,
) -> dict[str, Tensor]:
    """How much each unit of each group matters: the mean over the layers it belongs to, over the group's mean.

    Args:
        importance: ``magnitude``: the squared L2 norm of the weights (arXiv 2301.12900); ``bn``: the absolute scale of the
            BatchNorms (arXiv 1708.06519); where a group has none, the magnitude; ``taylor``: the absolute product of weight
            and gradient (arXiv 1906.10771).
        loss: for ``taylor``: called with a copy of the net, runs the loss backwards.
    """
    tp: Any = need("torch_pruning")
    twin = copy.deepcopy(module)
    graph = _graph(twin, x)
    if importance == "taylor":
        assert loss is not None
        loss(twin)
        for p in twin.parameters():
            p.grad = torch.zeros_like(p) if p.grad is None else p.grad
    magnitude = tp.importance.GroupMagnitudeImportance(p=2)
    judge = {"bn": tp.importance.BNScaleImportance, "taylor": tp.importance.GroupTaylorImportance}
    first = judge[importance]() if importance in judge else magnitude
    found = {}
    for g in groups:
        group = _group(graph, g.root, range(g.count))
        value = first(group)
        value = magnitude(group) if value is None else value
        if value is not None:
            found[g.root] = value.detach().float().cpu().view(g.parts, -1).mean(0).nan_to_num(0.0)
    return found


def cut(module: nn.Module, x: Tensor, plan: Plan) -> None:
    """Take channels out of a net, in place; its parameters are new objects."""
    graph = _graph(module, x)
    for root, taken in plan.items():
        if taken:
            _group(graph, root, taken).prune()


def _graph(module: nn.Module, x: Tensor) -> Any:
    """The dependency graph of a net, which is put into eval mode."""
    tp: Any = need("torch_pruning")
    for p in module.parameters():
        p.requires_grad_(p.is_floating_point())
    try:
        with torch.enable_grad():
            x = x.clone().requires_grad_()
            return tp.DependencyGraph().build_dependency(module, x, forward_fn=_logits, verbose=False)
    except Exception as e:  # whatever the forward or the library raises
        raise _Untraced(_line(e)) from e


class _Untraced(Exception):
    """The library cannot follow a net."""


def _culprit(module: nn.Module, x: Tensor, path: str = "") -> str:
    """The innermost module that cannot be traced, by itself, with what it is given."""
    given: dict[str, tuple[Any, ...]] = {}
    children = dict(module.named_children())
    hooks = [
        child.register_forward_pre_hook(lambda m, args, name=name: given.setdefault(name, args) and None)
        for name, child in children.items()
    ]
    with suppress(Exception), torch.no_grad():
        module(x)
    for hook in hooks:
        hook.remove()
    for name, args in given.items():  # what stands in a ModuleList is given nothing: the module that calls it is named
        if len(args) == 1 and isinstance(args[0], Tensor) and any(True for _ in children[name].children()):
            try:
                _graph(copy.deepcopy(children[name]), args[0].detach())
            except _Untraced:
                return _culprit(children[name], args[0].detach(), f"{path}{name}.")
    return f"{path.removesuffix('.') or 'its forward'} ({type(module).__name__})"


def _logits(module: nn.Module, x: Tensor) -> Tensor:
    return first_tensor(module(x), type(module).__name__)


def _group(graph: Any, root: str, taken: Iterable[int]) -> Any:
    layer = graph.model.get_submodule(root)
    return graph.get_pruning_group(layer, graph.get_pruner_of_module(layer).prune_out_channels, list(taken))


def _described(graph: Any, group: Any) -> tuple[Channels, str]:
    """A group as a value, and why it must stay ("" if nothing is known against it)."""
    names, parts, layers, why = graph._module2name, [1], [], ""
    for dep, _ in group:
        layer = dep.target.module
        if type(layer).__name__ == "_OutputOp" or (
            not dep.target.outputs and graph.is_out_channel_pruning_fn(dep.handler)
        ):
            why = why or OUTPUTS
        if not isinstance(layer, nn.Module) or layer not in names:
            continue
        depthwise = isinstance(layer, _ConvNd) and layer.groups == layer.in_channels
        if not attributes(layer):
            why = why or f"its channels go through {names[layer]}, a {type(layer).__name__}, which is left as it is"
        elif is_parametrized(layer):
            why = why or f"{names[layer]} is parametrized"
        elif isinstance(layer, _ConvNd) and not depthwise:
            parts.append(layer.groups)
        elif isinstance(layer, nn.GroupNorm):
            parts.append(layer.num_groups)
        if graph.is_out_channel_pruning_fn(dep.handler) and isinstance(layer, _ConvNd | nn.Linear):
            layers.append(names[layer])
    root = group[0].dep.target.module
    count = graph.get_out_channels(root)
    most = max(parts)
    if not why and (count % most or count // most < 2):
        why = f"{count} channels in {most} groups cannot be fewer" if count > 1 else "it has one channel"
    return Channels(names[root], count, most, tuple(layers)), why


def _proven(module: nn.Module, x: Tensor, groups: list[Channels]) -> tuple[list[Channels], dict[str, str]]:
    """The groups that pass the proof, and why the others do not. All at once; where that fails, by halves."""
    if not groups:
        return [], {}
    why = _proof(module, x, groups)
    if not why:
        return groups, {}
    if len(groups) == 1:
        return [], {groups[0].root: why}
    half = len(groups) // 2
    (first, refused), (second, more) = _proven(module, x, groups[:half]), _proven(module, x, groups[half:])
    refused |= more
    if first and second and (why := _proof(module, x, first + second)):
        kept, left = sorted((first, second), key=len, reverse=True)
        return kept, refused | {g.root: f"it cannot go together with {kept[0].root}: {why}" for g in left}
    return first + second, refused


def _proof(module: nn.Module, x: Tensor, groups: list[Channels]) -> str:
    """Why a net without half of these channels is not the net that does not listen to them; "" if it is.

    Scales, shifts and statistics are disturbed first: where they are zero (a branch that begins closed) nothing would show.
    """
    generator = torch.Generator().manual_seed(0)
    whole, x = copy.deepcopy(module).double().eval(), x.double()
    with torch.no_grad():
        for p in whole.parameters():
            if p.dim() < 2:
                p.add_(0.1 + 0.1 * torch.rand(p.shape, generator=generator, dtype=p.dtype).to(p.device))
    plan = {g.root: g.of(torch.randperm(g.units, generator=generator)[: g.units // 2].tolist()) for g in groups}
    small = copy.deepcopy(whole)
    try:
        graph = _graph(copy.deepcopy(whole), x)
        deafened = graph.model
        for root, taken in plan.items():
            for dep, at in _group(graph, root, taken):
                if graph.is_in_channel_pruning_fn(dep.handler):
                    _deafen(dep.target.module, at)
        cut(small, x, plan)
        with torch.no_grad():
            expected = _logits(deafened.eval(), x)
            if place := failing(small.eval(), x):
                return f"without some of its channels {place[0]} fails: {place[1]}"
            got = _logits(small, x)
    except Exception as e:  # the library, at a net that it cannot cut
        return f"it cannot be cut: {_line(e)}"
    if got.shape != expected.shape:
        return OUTPUTS
    if not torch.allclose(got, expected, rtol=0, atol=TOLERANCE * float(expected.abs().max().clamp(min=1e-3))):
        return "without some of its channels the others change: they are shuffled, normalised or mixed on the way"
    return ""


def _deafen(layer: Any, at: Sequence[int]) -> None:
    """Let a layer ignore some of its input channels."""
    if isinstance(layer, nn.Linear):
        layer.weight.data[:, list(at)] = 0
    elif isinstance(layer, _ConvNd) and layer.groups == 1:
        layer.weight.data.movedim(0 if layer.transposed else 1, 0)[list(at)] = 0
    elif isinstance(layer, _ConvNd) and layer.groups < layer.in_channels and not layer.transposed:
        inputs, outputs = layer.in_channels // layer.groups, layer.out_channels // layer.groups
        for c in at:
            part = c // inputs
            layer.weight.data[part * outputs : (part + 1) * outputs, c % inputs] = 0


def failing(module: nn.Module, x: Tensor) -> tuple[str, str] | None:
    """The innermost module whose forward raises, and what it raises; None if all is well."""
    inside: list[str] = []
    hooks = []
    for name, m in module.named_modules():
        label = f"{name or 'the forward of'} ({type(m).__name__})"
        hooks.append(m.register_forward_pre_hook(lambda m, args, label=label: inside.append(label)))
        hooks.append(m.register_forward_hook(lambda *_: inside.pop() and None))
    try:
        _logits(module, x)
    except Exception as e:
        return inside[-1] if inside else type(module).__name__, _line(e)
    finally:
        for hook in hooks:
            hook.remove()
    return None


def _line(error: BaseException) -> str:
    return str(error).strip().split("\n")[0] or type(error).__name__
