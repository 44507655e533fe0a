"""Presets: every method as it was published, by name. No torch until a scheme is built (:mod:`potstill.methods.build`)."""

from __future__ import annotations

import importlib
import json
import pkgutil
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from potstill.errors import ConfigError, did_you_mean
from potstill.methods.base import Preset

HELPERS = {"base", "build", "facts", "plan", "probe", "stages", "supply", "trace"}
PRESETS: dict[str, Preset] = {
    name: importlib.import_module(f"potstill.methods.{name}").PRESET
    for name in sorted(m.name for m in pkgutil.iter_modules(__path__))
    if name not in HELPERS
}
"""Every preset by name: a file of this folder is a preset, so none can be forgotten."""


def preset(name: str) -> Preset:
    """The preset of a method.

    Raises:
        ConfigError: no such method.
    """
    if name not in PRESETS:
        raise ConfigError(
            f"no method {name!r}.{did_you_mean(name, PRESETS)} Known: {', '.join(PRESETS)}.",
            hint="potstill list methods",
        )
    return PRESETS[name]


def expand(method: str) -> dict[str, dict[str, Any]]:
    """The losses of a method such as ``"kd"`` or ``"at+kd"``, as the configuration writes them, with published weights.

    One method alone has its own weight of cross-entropy; beside others, cross-entropy and KD have weight 1, as in the
    tables of combined methods. ``"none"`` is cross-entropy alone.
    """
    names = [n.strip().lower() for n in method.split("+") if n.strip()]
    if names == ["none"]:
        return {"ce": {"weight": 1.0}}
    presets = [preset(n) for n in names]
    if not presets or len({*names}) < len(names):
        raise ConfigError(f"method must name one or more different methods joined by '+', got {method!r}")
    alone = len(presets) == 1

    def own(entry: Mapping[str, Any]) -> dict[str, Any]:
        return {k: own(v) if isinstance(v, Mapping) else v for k, v in entry.items()}

    losses: dict[str, dict[str, Any]] = {"ce": {"weight": presets[0].ce if alone else 1.0}}
    for p in presets:
        kd = next((q.kd for q in presets if q.name != "kd"), p.weight)
        weight = kd if p.name == "kd" and not alone else p.weight
        # where there is a stage before, the weight in the main one depends on whether it is wanted
        given = {} if p.before else {"weight": weight}
        losses[p.name] = own({**given, "at": p.at, **p.settings})
    for p in presets:
        if "kd" not in names:
            losses |= {name: own(entry) for name, entry in p.beside.items() if name not in losses}
    return losses


@cache
def measured() -> dict[str, dict[str, Any]]:
    """What methods cost: ``{name: {"step": relative to that of KD, "parameters": of its own}}``, at resnet32x4 to resnet8x4 and
    batch 64. Written by docs/generate.py from benchmarks/results."""
    path = Path(__file__).with_name("measured.json")
    return dict(json.loads(path.read_text("utf-8"))["methods"]) if path.exists() else {}
