"""Structured pruning: whole channels go, by their importance, until a share or a target is reached."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from itertools import islice
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from potstill import cost
from potstill.compress.groups import Channels, Importance, Plan, channels, cut, scores
from potstill.compress.recalibrate import plain_batches, recalibrate
from potstill.compress.stage import Work
from potstill.errors import ConfigError, DataError, ModelError
from potstill.models.net import Net
from potstill.models.surgery import resize, sizes, surgery_of
from potstill.taps import Tapped
from potstill.types import Shape

Ranking = Literal["global", "layer"]
MEASURES: dict[str, Callable[[nn.Module, Shape], float]] = {
    "parameters": lambda module, shape: cost.parameters(module),
    "macs": cost.macs,
    "bytes": lambda module, shape: cost.size_bytes(module),
    "latency": cost.latency_ms,
}


def plan(
    groups: list[Channels],
    scored: Mapping[str, Tensor],
    ratio: float,
    *,
    ranking: Ranking = "global",
    round_to: int = 8,
    most: float = 0.75,
    limits: Mapping[str, float] | None = None,
) -> dict[str, list[int]]:
    """Which channels go when a share ``ratio`` of all goes; a larger share takes these and more."""
    allowed = {g.root: int(g.units * _limit(g, most, limits or {})) for g in groups if g.root in scored}
    order = {root: scored[root].argsort(stable=True) for root in allowed}
    if ranking == "global":
        lowest = torch.cat([scored[root][order[root][:n]] for root, n in allowed.items()] or [torch.empty(0)])
        owner = torch.cat([torch.full((n,), i) for i, n in enumerate(allowed.values())] or [torch.empty(0)])
        wanted = round(ratio * sum(g.units for g in groups))
        taken = owner[lowest.argsort(stable=True)[:wanted]]
        count = {root: int((taken == i).sum()) for i, root in enumerate(allowed)}
    else:
        count = {g.root: min(round(ratio * g.units), allowed[g.root]) for g in groups if g.root in allowed}
    chosen = {}
    for g in groups:
        if n := _rounded(g, count.get(g.root, 0), allowed.get(g.root, 0), round_to):
            chosen[g.root] = g.of(order[g.root][:n].tolist())
    return chosen


def _limit(group: Channels, most: float, limits: Mapping[str, float]) -> float:
    """The largest share that may go of a group: the smallest that any of its layers has."""
    named = [share for pattern, share in limits.items() for layer in group.layers if fnmatchcase(layer, pattern)]
    return min(named) if named else most


def _rounded(group: Channels, n: int, allowed: int, round_to: int) -> int:
    """How many units go so that a multiple of ``round_to`` channels stays, the nearest that the limit allows."""
    step = round_to // math.gcd(round_to, group.parts)
    kept = max(step, math.floor((group.units - n) / step + 0.5) * step)
    while kept < group.units - allowed:
        kept += step
    return max(group.units - kept, 0)


def prune(
    net: Net,
    shape: Shape,
    ratio: float | None = None,
    *,
    target: Mapping[str, float] | None = None,
    importance: Importance = "magnitude",
    ranking: Ranking = "global",
    round_to: int = 8,
    most: float = 0.75,
    limits: Mapping[str, float] | None = None,
    loss: Callable[[nn.Module], Any] | None = None,
) -> dict[str, Any]:
    """Remove channels of a net, in place: it is really smaller, and its ``surgery`` says how.

    Args:
        shape: of what the module reads, (C, H, W).
        ratio: share of the channels that go, in (0, 1); or
        target: what the net may cost afterwards, searched by bisection: ``{"macs": 2e7}``; numbers below 1 are shares of what
            it costs now, but ``latency``, in milliseconds of one picture on one thread of this machine.
        importance: see :func:`potstill.compress.groups.scores`; ``taylor`` needs ``loss``.
        ranking: ``global``: all channels in one list; ``layer``: the same share of every layer.
        round_to: channels of a layer stay a multiple of it: odd numbers run slower in runtimes, measured; 16 is fastest on
            AVX-512. A layer that has fewer is left alone.
        most: largest share that goes of one layer.
        limits: the same for some layers, by patterns of their paths: ``{"layer1.*": 0.25, "conv1": 0}``.

    Returns:
        ``{"before": costs, "after": costs, "ratio": .., "channels": {layer: [before, after]}, "kept": {layer: why}}``.

    Raises:
        ModelError: no channel of the net can go; says why, by layer.
        ConfigError: a setting out of range, or a target that cannot be reached.
        MachineError: torch-pruning is not installed.

    Papers: 2301.12900 (groups), 1906.10771 (Taylor), 1708.06519 (BN scales), 1608.08710 (magnitude).
    """
    target = dict(target or {})
    _check(ratio, target, importance, ranking, round_to, most, limits or {})
    x = cost.noise(net.module, shape)
    groups, kept = channels(net.module, x)
    able = [g for g in groups if g.units * g.parts > round_to]
    kept |= {g.root: f"it has {g.count} channels, and round_to is {round_to}" for g in groups if g not in able}
    if not able:
        reasons = "; ".join(f"{layer}: {why}" for layer, why in list(kept.items())[:4])
        raise ModelError(f"no channel of {type(net.module).__name__} can go: {reasons}", hint="--round-to 1, --lowrank")
    _patterns_meet(limits or {}, groups)
    scored = scores(net.module, x, able, importance, loss)

    def taken(share: float) -> dict[str, list[int]]:
        return plan(able, scored, share, ranking=ranking, round_to=round_to, most=most, limits=limits)

    def smaller(chosen: Plan) -> nn.Module:
        module = copy.deepcopy(net.module)
        cut(module, x, chosen)
        return module

    before = _costs(net.module, shape)
    if target:
        ((measure, wanted),) = target.items()
        now = MEASURES[measure](net.module, shape)
        goal = wanted * now if wanted < 1 and measure != "latency" else wanted
        ratio = _search(lambda share: MEASURES[measure](smaller(taken(share)), shape), taken, able, goal, measure)
    assert ratio is not None
    chosen = taken(ratio)
    _install(net, smaller(chosen))
    return {
        "before": before,
        "after": _costs(net.module, shape),
        "ratio": ratio,
        "channels": {g.root: [g.count, g.count - len(chosen[g.root])] for g in able if g.root in chosen},
        "kept": kept,
    }


def _search(
    measured: Callable[[float], float],
    taken: Callable[[float], Plan],
    groups: list[Channels],
    goal: float,
    measure: str,
) -> float:
    """The smallest share with which the cost is ``goal`` or less; costs of equal plans are measured once."""
    seen: dict[tuple[int, ...], float] = {}

    def of(share: float) -> float:
        key = tuple(len(taken(share).get(g.root, ())) for g in groups)
        if key not in seen:
            seen[key] = measured(share)
        return seen[key]

    low, high = 0.0, 1.0
    if of(low) <= goal:
        return low
    if (least := of(high)) > goal:
        raise ConfigError(
            f"the target of {goal:,.4g} for {measure} cannot be reached: pruning brings it to {least:,.4g} at least",
            hint="a larger `most`, a smaller `round_to`, or a smaller student",
        )
    while high - low > 0.5 / sum(g.units for g in groups):
        middle = (low + high) / 2
        low, high = (low, middle) if of(middle) <= goal else (middle, high)
    return high


def _install(net: Net, small: nn.Module) -> None:
    """Give the net's own module the shapes and weights of a pruned copy."""
    before = sizes(net.module)
    net.surgery = surgery_of(small, before, net.surgery)
    for path, size in sizes(small).items():
        if size != before[path]:
            resize(net.module.get_submodule(path), size, path)
    net.module.load_state_dict(small.state_dict())


def _costs(module: nn.Module, shape: Shape) -> dict[str, float]:
    return {name: float(MEASURES[name](module, shape)) for name in ("parameters", "macs", "bytes")}


def _patterns_meet(limits: Mapping[str, float], groups: list[Channels]) -> None:
    layers = [layer for g in groups for layer in g.layers]
    for pattern in limits:
        if not any(fnmatchcase(layer, pattern) for layer in layers):
            raise ConfigError(f"limits: no prunable layer is called {pattern!r}; there are {', '.join(layers[:12])}")


def _check(
    ratio: float | None,
    target: Mapping[str, float],
    importance: str,
    ranking: str,
    round_to: int,
    most: float,
    limits: Mapping[str, float],
) -> None:
    if (ratio is None) == (not target) or len(target) > 1:
        raise ConfigError("pruning takes one of: a ratio, or a target in parameters, macs, bytes or latency")
    for name, known, value in (
        ("importance", get_args(Importance), importance),
        ("ranking", get_args(Ranking), ranking),
        *(("target", tuple(MEASURES), t) for t in target),
    ):
        if value not in known:
            raise ConfigError(f"{name} must be one of {', '.join(known)}, got {value!r}")
    if ratio is not None and not 0 < ratio < 1:
        raise ConfigError(f"the ratio is a share of the channels between 0 and 1, got {ratio}")
    if any(not v > 0 for v in target.values()):
        raise ConfigError(f"a target must be more than 0, got {dict(target)}")
    if round_to < 1 or not 0 < most < 1 or any(not 0 <= v < 1 for v in limits.values()):
        raise ConfigError(f"round_to is 1 or more, shares are below 1; got {round_to=}, {most=}, limits={dict(limits)}")


@dataclass(frozen=True)
class Prune:
    """Remove channels, then measure the BatchNorm statistics anew; see :func:`prune` for the settings.

    Attributes:
        ratio: share of the channels that go; or one of the targets
        parameters, macs, bytes, latency: below 1 a share (not ``latency``: milliseconds).
        batches: of training pictures that ``taylor`` looks at, and whose statistics the BatchNorms take; 0: leave them.
    """

    ratio: float | None = None
    parameters: float | None = None
    macs: float | None = None
    bytes: float | None = None
    latency: float | None = None
    importance: Importance = "magnitude"
    ranking: Ranking = "global"
    round_to: int = 8
    most: float = 0.75
    limits: dict[str, float] = field(default_factory=dict)
    batches: int = 20
    kind = "prune"
    resumes = False

    def __post_init__(self) -> None:
        _check(self.ratio, self.target, self.importance, self.ranking, self.round_to, self.most, self.limits)

    @property
    def target(self) -> dict[str, float]:
        return {name: value for name in MEASURES if (value := getattr(self, name)) is not None}

    def run(self, work: Work) -> dict[str, Any]:
        facts = prune(
            work.net,
            work.shape,
            self.ratio,
            target=self.target,
            importance=self.importance,
            ranking=self.ranking,
            round_to=self.round_to,
            most=self.most,
            limits=self.limits,
            loss=lambda module: self._loss(module, work),
        )
        facts["cut"] = work.measured()
        if self.batches:
            recalibrate(work.net.module, plain_batches(work.ready, self.batches), work.net.preprocess)
        return {**facts, **work.measured(), **work.costs(), "notices": []}

    def _loss(self, module: nn.Module, work: Work) -> None:
        """Cross-entropy of the labels over some batches, backwards."""
        tapped, n = Tapped(module, (), work.net.preprocess).eval(), 0
        device = next(module.parameters()).device
        for batch in islice(work.ready.stream(work.config.seed).epoch(0), self.batches or 8):
            known = (batch.y >= 0).to(device)
            if n_known := int(known.sum()):
                logits = tapped(batch.x.to(device))["logits"][known]
                F.cross_entropy(logits, batch.y.to(device)[known]).backward()
                n += n_known
        if not n:
            raise DataError("importance=taylor reads labels, and no picture has one", hint="importance=magnitude")
