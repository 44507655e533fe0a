"""From a few words to stages: ``prune=0.5, rounds=2, recover=10`` is prune, recover, prune, recover."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from potstill.compress.prune import MEASURES
from potstill.compress.stage import Stage, Work, make
from potstill.config.schema import Config
from potstill.config.sections import CompressConfig
from potstill.config.stages import FIRST
from potstill.errors import ConfigError, did_you_mean
from potstill.models.net import Net
from potstill.ready import Objects

RECOVER = 10
"""Epochs of learning back after each cut, where nothing is said."""

Plan = dict[str, Any]


def words(
    *,
    target: Mapping[str, float] | None = None,
    importance: str | None = None,
    method: str | None = None,
    control: bool | None = None,
    **said: Any,
) -> Plan:
    """What a caller, a command or a configuration says, in one form: ``{"prune": {"ratio": 0.5}, "recover": {"epochs": 3}}``.

    Args:
        said: of each stage a plain value, settings by their names, or False: leave it out; None says nothing. ``rounds``: in
            how many steps to prune, each followed by a recovery.
        target: what the net may cost: ``{"macs": 0.5}``; the same as ``prune={"macs": 0.5}``.
        importance, method, control: of the pruning, and of the recovery.

    Raises:
        ConfigError: there is no such stage; two aims of pruning.
    """
    plan: Plan = {}
    for name, value in said.items():
        if name not in (*FIRST, "rounds"):
            raise ConfigError(f"there is no stage {name!r}; there are {', '.join(FIRST)}.{did_you_mean(name, FIRST)}")
        if name == "rounds" or value is False or value is None:
            plan |= {} if value is None else {name: value}
        elif isinstance(value, Mapping) or value is True:
            plan[name] = {} if value is True else dict(value)
        elif name == "sparsify" and isinstance(value, str):
            plan[name] = {"pattern": value}
        else:
            plan[name] = {FIRST[name]: value}
    if target and plan.get("prune"):
        raise ConfigError("prune is a share of the channels, target a cost: one of them")
    for name, more in (
        ("prune", {**(target or {}), **({} if importance is None else {"importance": importance})}),
        ("recover", {k: v for k, v in (("method", method), ("control", control)) if v is not None}),
    ):
        if more and plan.get(name) is not False:
            plan[name] = {**plan.get(name, {}), **more}
    return plan


def refined(plan: Plan, over: Plan) -> Plan:
    """A plan with another laid over it: settings of a stage are added and replaced; another aim of pruning replaces the old."""
    made = dict(plan)
    aims = ("ratio", *MEASURES)
    for name, value in over.items():
        before = made.get(name)
        if isinstance(value, dict) and isinstance(before, dict):
            if name == "prune" and any(k in value for k in aims):
                before = {k: v for k, v in before.items() if k not in aims}
            value = {**before, **value}
        made[name] = value
    return made


def planned(source: Net, config: Config, objects: Objects, **said: Any) -> list[Stage]:
    """The stages of a compression.

    Args:
        said: see :func:`words`. ``prune``: share of the channels that go; ``lowrank``: share of the ranks that stays;
            ``sparsify``: share of zeros, or a pattern such as ``2:4``; ``recover``: epochs of distillation after each of
            these, 10 if not said, 0 for none; ``quantize``: the precision; ``export``: the format; ``verify``: points of
            accuracy that an exported file may lose, by default 1 where there is one.

    Raises:
        ConfigError: settings that mean nothing together.
    """
    plan = words(**said)
    prune, rounds = plan.get("prune") or {}, plan.get("rounds", 1)
    back = {"epochs": RECOVER, **(plan.get("recover") or {})}
    if not isinstance(rounds, int) or rounds < 1 or not isinstance(back["epochs"], int) or back["epochs"] < 0:
        raise ConfigError(f"rounds is 1 or more, recover 0 or more; got rounds={rounds!r}, recover={back['epochs']!r}")
    again: Sequence[Stage] = [make("recover", **back)] if back["epochs"] and plan.get("recover") is not False else []
    stages: list[Stage] = []
    if prune and not any(k in prune for k in ("ratio", *MEASURES)):
        raise ConfigError(
            f"how much shall be pruned? Only {', '.join(prune)} is given",
            hint="prune=0.5, --prune 0.5, --target-macs 0.5",
        )
    for step in range(1, rounds + 1) if prune else ():
        goal = dict(prune)
        if (ratio := goal.get("ratio")) is not None:
            goal["ratio"] = 1 - (1 - ratio * step / rounds) / (1 - ratio * (step - 1) / rounds)
        for name in MEASURES:
            if goal.get(name) is not None:
                goal[name] = _step(source, config, objects, name, goal[name], step, rounds)
        stages += [make("prune", **goal), *again]
    for name in ("lowrank", "sparsify"):
        if plan.get(name):
            stages += [make(name, **plan[name]), *again]
    stages += [make(name, **plan[name]) for name in ("quantize", "export") if isinstance(plan.get(name), dict)]
    if isinstance(plan.get("verify", {}) if plan.get("export") is not None else plan.get("verify"), dict):
        stages.append(make("verify", **plan.get("verify", {})))
    return stages


def words_of(section: CompressConfig | None) -> Plan:
    """What ``compress:`` in a configuration says; defaults say nothing."""
    return {} if section is None else words(**section.model_dump(exclude_defaults=True))


def checked(plan: Plan) -> None:
    """Refuse a plan before there is a net to carry it out on.

    Raises:
        ConfigError: as :func:`planned`.
    """
    nothing: Any = None  # only costs of several rounds look at the net
    planned(nothing, nothing, Objects(), **{**plan, "rounds": plan.get("rounds", 1) and 1})


def _step(source: Net, config: Config, objects: Objects, name: str, value: float, step: int, rounds: int) -> float:
    """What the net may cost after one of several rounds: equal factors, so that each round takes the same share."""
    if rounds == 1:
        return value
    work = Work(Path(), source, config, source, objects=objects)  # nothing is written: it knows the shape
    now = MEASURES[name](source.module, work.shape)
    share = value if value < 1 and name != "latency" else value / now
    return now * share ** (step / rounds)
