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
    """What a module did in the dry pass: one call of it.

    Attributes:
        path: of the module.
        nth: which of its calls this is, counted from 1.
        inside: path of the module that called it.
        output, given: its output and its first argument.
        output_version, given_version: theirs, after the call and before it. What is overwritten in place has another later.
    """

    path: str
    nth: int
    inside: str
    output: Tensor
    given: Any
    output_version: int
    given_version: int


Modules = Mapping[str, nn.Module]


def last_calls(calls: Sequence[Call]) -> dict[str, Call]:
    """The last call of each module, in the order in which they finished."""
    return {calls[i].path: calls[i] for i in sorted({call.path: i for i, call in enumerate(calls)}.values())}


def end(last: str, smaller: Sequence[int] | None, calls: Mapping[str, Call], tappable: Sequence[str]) -> str:
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


def before(stage: str, calls: Sequence[Call], modules: Modules) -> Call | None:
    """The activation that ends a stage: what it was given is the pre-activation. None where no module is that.

    It is the module whose output *is* the stage's, or is pooled to it. Where a stage ends in a sum that is normalised and
    activated only by what comes next (a wide ResNet), it is the activation of the BatchNorm that reads the stage's output.
    """
    at = max(i for i, call in enumerate(calls) if call.path == stage)
    value, version = calls[at].output, calls[at].output_version
    for call in reversed(calls[: at + 1]):
        if call.output is value and call.output_version == version:  # else an in-place sum came in between
            if isinstance(modules[call.path], ACTIVATIONS):
                return call
            if isinstance(modules[call.path], PASSING):
                value, version = call.given, call.given_version
    later = calls[at + 1 :]
    norms = [c.output for c in later if c.given is calls[at].output and isinstance(modules[c.path], _BatchNorm)]
    opened = (c for c in later if isinstance(modules[c.path], ACTIVATIONS) and any(c.given is n for n in norms))
    return next(opened, None)


def norm(activation: Call, calls: Sequence[Call], modules: Modules) -> str | None:
    """The BatchNorm before an activation: that which puts out its input; behind a sum, the last one in the block that also
    runs the activation, as in OFD's code (``bn2`` of a basic block, not that of the shortcut)."""
    done = calls[: next(i for i, call in enumerate(calls) if call is activation)]
    earlier = [c for c in reversed(done) if isinstance(modules[c.path], _BatchNorm)]
    exact = (c.path for c in earlier if c.output is activation.given)
    shape = activation.output.shape
    beside = (c.path for c in earlier if c.inside == activation.inside and c.output.shape == shape)
    return next(exact, None) or next(beside, None)


def pooled(vector: Any, calls: Mapping[str, Call], tappable: Sequence[str]) -> str | None:
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
