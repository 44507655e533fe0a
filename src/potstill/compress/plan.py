"""From a few words to stages: ``prune=0.5, rounds=2, recover=10`` is prune, recover, prune, recover."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from potstill.compress.prune import MEASURES
from potstill.compress.stage import Stage, Work, make
from potstill.config.schema import Config
from potstill.errors import ConfigError
from potstill.models.net import Net
from potstill.prepare import Objects


def planned(
    source: Net,
    config: Config,
    objects: Objects,
    *,
    prune: float | None = None,
    target: Mapping[str, float] | None = None,
    importance: str = "magnitude",
    rounds: int = 1,
    recover: int = 0,
    method: str = "kd",
    recover_settings: Mapping[str, Any] | None = None,
    control: bool = True,
    lowrank: float | None = None,
    sparsify: float | str | None = None,
    prune_settings: Mapping[str, Any] | None = None,
    quantize: str | None = None,
    export: str | None = None,
    verify: bool | None = None,
) -> list[Stage]:
    """The stages of a compression.

    Args:
        prune: share of the channels that go; or
        target: what the net may cost: ``{"macs": 0.5}``; see :func:`potstill.compress.prune.prune`.
        rounds: in how many steps, each followed by a recovery.
        recover: epochs of distillation after each cut; 0: none.
        method: of the recoveries; recover_settings: more of :class:`Recover`.
        lowrank: share of the ranks that stays, after the pruning.
        sparsify: share of zeros, or a pattern such as ``2:4``, at the end.
        quantize, export: the first settings of these stages.
        verify: run the exported files and refuse those that lost too much; None: where something is exported.

    Raises:
        ConfigError: settings that mean nothing together.
    """
    if rounds < 1 or recover < 0:
        raise ConfigError(f"rounds is 1 or more, recover 0 or more; got {rounds=}, {recover=}")
    if prune is not None and target:
        raise ConfigError("prune is a share of the channels, target a cost: one of them")
    again = [make("recover", epochs=recover, method=method, control=control, **(recover_settings or {}))] * bool(
        recover
    )
    stages: list[Stage] = []
    for step in range(1, rounds + 1) if prune is not None or target else ():
        goal = (
            {"ratio": 1 - (1 - prune * step / rounds) / (1 - prune * (step - 1) / rounds)} if prune is not None else {}
        )
        for name, value in (target or {}).items():
            goal[name] = _step(source, config, objects, name, value, step, rounds)
        stages += [make("prune", importance=importance, **goal, **(prune_settings or {})), *again]
    if lowrank is not None:
        stages += [make("lowrank", lowrank), *again]
    if sparsify is not None:
        stages += [make("sparsify", **{"pattern" if isinstance(sparsify, str) else "ratio": sparsify}), *again]
    if quantize is not None:
        stages.append(make("quantize", quantize))
    if export is not None:
        stages.append(make("export", export))
    if export is not None if verify is None else verify:
        stages.append(make("verify"))
    return stages


def _step(source: Net, config: Config, objects: Objects, name: str, value: float, step: int, rounds: int) -> float:
    """What the net may cost after one of several rounds: equal factors, so that each round takes the same share."""
    if rounds == 1:
        return value
    if name not in MEASURES:
        raise ConfigError(f"target must be one of {', '.join(MEASURES)}, got {name!r}")
    work = Work(Path(), source, config, source, objects=objects)  # nothing is written: it knows the shape
    now = MEASURES[name](source.module, work.shape)
    share = value if value < 1 and name != "latency" else value / now
    return now * share ** (step / rounds)
