"""Where a tensor of the dry pass came from: the activation that ends a stage, the BatchNorm before it, the pooled map."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules import activation as act
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.pooling import _AdaptiveAvgPoolNd, _AdaptiveMaxPoolNd, _AvgPoolNd, _MaxPoolNd

from potstill.losses._maps import as_map

ACTIVATIONS = (
    *(act.ReLU, act.ReLU6, act.LeakyReLU, act.PReLU, act.RReLU, act.ELU, act.CELU, act.SELU, act.GELU),
    *(act.SiLU, act.Mish, act.Softplus, act.Hardswish, act.Hardtanh, act.Tanh, act.Sigmoid),
)
PASSING = (_MaxPoolNd, _AvgPoolNd, _AdaptiveMaxPoolNd, _AdaptiveAvgPoolNd, nn.modules.dropout._DropoutNd)


class Call(NamedTuple):
    """What a module did in the dry pass: its (last) output and first argument, how often it ran, and their versions then.

    A tensor that is overwritten in place has another version at the end of the pass.
    """

    output: Tensor
    given: Any
    calls: int
    output_version: int
    given_version: int


Calls = Mapping[str, Call]
Modules = Mapping[str, nn.Module]


def end(last: str, smaller: Sequence[int] | None, calls: Calls, tappable: Sequence[str]) -> str:
    """Where the stage ends whose resolution ``last`` is the last to have; ``smaller`` is the next resolution, None at the end.

    Many blocks begin to work at the resolution that they then reduce (the first 1x1 convolution of a bottleneck). Such a layer
    belongs to the next stage: this one ends at what most blocks from its resolution to the next were given, the latest of those;
    without such blocks, at ``last``.
    """
    size = calls[last].output.shape[2:]
    made = {id(calls[path].output): path for path in tappable}  # of modules with the same output, the last to finish
    votes = Counter(
        made[id(call.given)]
        for path, call in calls.items()
        if id(call.given) in made
        and any(other.startswith(f"{path}.") for other in calls)
        and call.given.shape[2:] == size
        and (call.output.shape[2:] != size if smaller is None else call.output.shape[2:] == smaller)
    )
    return max(votes, key=lambda path: (votes[path], tappable.index(path)), default=last)


def before(stage: str, calls: Calls, modules: Modules) -> str | None:
    """The activation that ends a stage, as its spot ``path@in``; None where no module does (a sum, a linear bottleneck).

    It is the module whose output *is* the stage's, or is pooled to it.
    """
    done = list(calls)
    value = calls[stage].output
    for path in reversed(done[: done.index(stage) + 1]):
        if calls[path].output is value:
            if isinstance(modules[path], ACTIVATIONS):
                return f"{path}@in"
            if isinstance(modules[path], PASSING):
                value = calls[path].given
    return None


def norm(spot: str, calls: Calls, modules: Modules) -> str | None:
    """The BatchNorm before the activation of ``path@in``: that which puts out its input; behind a sum, the last one in the
    block that also holds the activation, as in OFD's code (``bn2`` of a basic block, not that of the shortcut)."""
    path = spot.removesuffix("@in")
    done = list(calls)
    earlier = [p for p in reversed(done[: done.index(path)]) if isinstance(modules[p], _BatchNorm)]
    exact = (p for p in earlier if calls[p].output is calls[path].given)
    beside = (
        p
        for p in earlier
        if p.rpartition(".")[0] == path.rpartition(".")[0] and calls[p].output.shape == calls[path].output.shape
    )
    return next(exact, None) or next(beside, None)


def pooled(vector: Any, calls: Calls, tappable: Sequence[str]) -> str | None:
    """The last map (or tokens) whose average over positions is ``vector``, (B, D): what a classifier reads; None: no such map.

    A map of one position counts only where there is no larger one, and then the first to be so small.
    """
    if not isinstance(vector, Tensor):
        return None
    found = None
    for path in reversed(tappable):
        f = calls[path].output
        if f.ndim in (3, 4) and len(f) == len(vector):
            m = as_map(f)
            if m.shape[1] == vector.shape[1] and torch.allclose(m.mean((2, 3)), vector.float(), rtol=1e-4, atol=1e-5):
                if m.shape[2:].numel() > 1:
                    return path
                found = path
    return found
