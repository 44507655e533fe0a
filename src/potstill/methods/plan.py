"""From the entry of a configuration to what is to be made: the class, its settings, the spots that it means for two nets."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from potstill.errors import ConfigError, ModelError, did_you_mean
from potstill.losses.base import Loss
from potstill.losses.ce import CE
from potstill.methods import PRESETS, preset
from potstill.methods.base import Before, Preset
from potstill.methods.probe import Look, spots
from potstill.schemes.schedules import Ramp, Weight
from potstill.schemes.scheme import At


@dataclass(frozen=True)
class Plan:
    """A loss that is to be made: the entry of a configuration, completed by its preset, and the spots that it means here."""

    name: str
    use: str
    cls: type[Loss]
    settings: dict[str, Any]
    weight: Weight
    rule: Any
    at: At
    before: Before | None = None

    @property
    def single(self) -> bool:
        return isinstance(self.at, str | tuple)

    @property
    def pairs(self) -> list[tuple[str, str]]:
        listed = [self.at] if isinstance(self.at, str | tuple) else list(self.at)
        return [(spot, spot) if isinstance(spot, str) else (spot[0], spot[1]) for spot in listed]


def make_plan(name: str, entry: dict[str, Any], s_look: Look, t_look: Look, taught: bool) -> Plan:
    use = entry.pop("use", None) or name
    cls, defaults = loss_class(use)
    published = PRESETS.get(use)
    usual_at = defaults.pop("at", "logits")
    before = make_before(entry.pop("before", published and published.before), published)
    usual_weight = published.main_weight(staged=before is not None) if published else 1.0
    if not taught and cls is not CE:
        raise ConfigError(f"loss {name!r} needs a teacher", hint="--teacher MODEL")
    rule = entry.pop("at", None) or usual_at
    weight = entry.pop("weight", None)
    try:
        at = spots(rule, s_look, t_look)
    except ModelError as error:
        raise placed(error, name) from error
    weight = make_weight(usual_weight if weight is None else weight)
    return Plan(name, use, cls, {**defaults, **entry}, weight, rule, at, before if taught else None)


def make_before(given: Any, published: Preset | None = None) -> Before | None:
    """The stage before, from its mapping in a configuration, which the published one completes; None and False: none."""
    if not given or isinstance(given, Before):
        return given or None
    usual = published.before.settings() if published and published.before else {}
    try:
        return Before(**{**usual, **given})
    except TypeError as error:
        known = ", ".join(Before.__dataclass_fields__)
        raise ConfigError(f"before: {error}. Known: {known}; share is needed.") from None


def placed(error: ModelError, name: str) -> ModelError:
    """The same refusal, with the loss that it concerns."""
    hint = error.hint and error.hint.replace("losses.NAME", f"losses.{name}")
    return ModelError(error.what, where=error.where or f"losses.{name}", why=error.why, hint=hint)


def loss_class(use: str) -> tuple[type[Loss], dict[str, Any]]:
    """The class that ``use`` names, and its preset's defaults: settings, ``at``."""
    if use == "ce":
        return CE, {}
    if use in PRESETS or ":" not in use:
        p = preset(use)
        module, _, attribute = p.loss.partition(":")
        return getattr(importlib.import_module(module), attribute), {**p.settings, "at": p.at}
    place, _, attribute = use.rpartition(":")
    if place.endswith(".py"):
        if not Path(place).is_file():
            raise ConfigError(f"no such file: {place}", where=f"use: {use}")
        spec = importlib.util.spec_from_file_location(Path(place).stem, place)
        assert spec is not None
        assert spec.loader is not None
        found = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(found)
    else:
        found = importlib.import_module(place)
    cls = getattr(found, attribute, None)
    if not (isinstance(cls, type) and issubclass(cls, Loss)):
        raise ConfigError(
            f"{use!r} must name a class derived from potstill.losses.Loss{did_you_mean(attribute, dir(found))}"
        )
    return cls, {}


def make_weight(weight: Any) -> Weight:
    """A number, or a :class:`Ramp` from its mapping in a configuration."""
    if isinstance(weight, Mapping):
        return Ramp(
            weight["from"],
            weight["to"],
            weight.get("start", 0.0),
            weight.get("end", 1.0),
            weight.get("shape", "linear"),
        )
    return weight if isinstance(weight, Ramp) else float(weight)
