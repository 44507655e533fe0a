"""Layers of settings, the later over the earlier, each value with its origin."""

from __future__ import annotations

import re
import types
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any

from potstill.config.problems import Problem
from potstill.config.schema import Config
from potstill.config.sections import Section
from potstill.config.yaml import Document, Where
from potstill.config.yaml import value as parse_value
from potstill.errors import ConfigError

COMMAND = "command line"
DECIDES = {"optim": "name", "schedule": "name", "teacher": "model", "student": "model"}
"""Where another name makes the old settings meaningless: a new optimizer drops the arguments of the one before it."""
ENDS = {"from", "to"}
"""A schedule that names both of its ends is a new one: it keeps nothing of the one before it."""
KEEPS = {("schedule", "warmup")}
OVERRIDE = re.compile(r"[A-Za-z_][\w-]*(\.[A-Za-z_][\w-]*)*=.*", re.DOTALL)


@dataclass
class Layer:
    """What one source says: ``values`` as a tree, and where each value stands."""

    name: str
    values: dict[str, Any] = field(default_factory=dict)
    places: Mapping[Where, str] = field(default_factory=dict)

    def place(self, at: Where) -> str:
        """Where a value, or what holds it, is written."""
        while at and at not in self.places:
            at = at[:-1]
        return self.places.get(at, self.name)


@dataclass
class Tree:
    """The layers put together.

    Attributes:
        values: the settings.
        origins: the place of each value, by its way.
    """

    values: dict[str, Any] = field(default_factory=dict)
    origins: dict[Where, str] = field(default_factory=dict)

    def origin(self, at: Where) -> str:
        """Where a value, or what holds it, was given; empty for what nobody gave."""
        while at and at not in self.origins:
            at = at[:-1]
        return self.origins.get(at, "")

    def put(self, layer: Layer) -> None:
        """Lay a layer over what is there."""
        for key, head in DECIDES.items():
            old, new = self.values.get(key), layer.values.get(key)
            if (
                isinstance(old, dict)
                and isinstance(new, dict)
                and head in old
                and head in new
                and not _same(old[head], new[head])
            ):
                for name in [n for n in old if (key, n) not in KEEPS]:
                    self.drop((key, name))
        _merge(self.values, layer.values, (), layer, self)

    def drop(self, at: Where) -> None:
        """Forget a value and all below it."""
        holder: Any = self.values
        for part in at[:-1]:
            holder = holder.get(part, {})
        holder.pop(at[-1], None)
        self.origins = {way: origin for way, origin in self.origins.items() if way[: len(at)] != at}

    def default(self, at: Where, value: Any, origin: str) -> None:
        """Give a value where there is none. What holds it exists."""
        holder: Any = self.values
        for part in at[:-1]:
            holder = holder[part]
        if at[-1] not in holder:
            holder[at[-1]] = value
            self.origins[at] = origin


def from_document(document: Document) -> Layer:
    """The layer of a file.

    Raises:
        ConfigError: it is no mapping.
    """
    values = {} if document.value is None else document.value
    if not isinstance(values, dict):
        raise ConfigError(
            f"must be settings, `key: value`, got a {type(values).__name__}",
            where=f"{document.name}:1:1",
            hint="potstill cp digits .",
        )
    return Layer(document.name, lengthen(values), document.places)


def from_command(flags: Mapping[str, Any], overrides: list[str]) -> tuple[Layer, list[Problem]]:
    """The layer of the command line: flags by the names of their settings, and ``key=value``.

    Raises:
        ConfigError: not of the form key=value.
    """
    layer, problems = Layer(COMMAND), list[Problem]()
    given: dict[Where, tuple[Any, str]] = {}
    items = [(key, value, f"{key}={value}") for key, value in flags.items()]
    for item in overrides:
        if not OVERRIDE.fullmatch(item):
            raise ConfigError(f"must be key=value, got {item!r}", where=COMMAND, hint="losses.kd.temperature=2")
        key, _, text = item.partition("=")
        items.append((key, parse_value(text), item))
    for key, value, written in items:
        at = tuple(key.split("."))
        tree: Any = value
        for part in reversed(at):
            tree = {part: tree}
        for way, leaf in leaves(lengthen(tree)):
            if way in given and given[way][0] != leaf:
                problems.append(Problem(way, f"given twice: {given[way][1]} and {written}."))
            given[way] = (leaf, written)
        _merge(layer.values, lengthen(tree), (), None, None)
    return layer, problems


def leaves(tree: Mapping[str, Any], at: Where = ()) -> Iterator[tuple[Where, Any]]:
    """Every value that is not a mapping (or is an empty one), with its way."""
    for key, value in tree.items():
        if isinstance(value, Mapping) and value:
            yield from leaves(value, (*at, key))
        else:
            yield (*at, key), value


def lengthen(values: Mapping[str, Any], model: type[Section] = Config) -> dict[str, Any]:
    """Write short forms out: ``teacher: zoo:x`` is ``teacher: {model: zoo:x}``; an empty section says nothing."""
    out: dict[str, Any] = {}
    for key, value in values.items():
        section, many, nullable = section_of(model, key)
        if section is None or (value is None and nullable):
            out[key] = value
        elif value is False and section.can_be_off:
            out[key] = None
        elif value is None:
            continue
        elif many:
            out[key] = (
                {k: _long({} if v is None else v, section) for k, v in value.items()}
                if isinstance(value, dict)
                else value
            )
        else:
            out[key] = _long(value, section)
    return out


def section_of(model: type[Section], key: str) -> tuple[type[Section] | None, bool, bool]:
    """The section that a key holds, whether it holds many by name, and whether null is a value of its own."""
    annotation: Any = model.model_fields[key].annotation if key in model.model_fields else None
    many = typing.get_origin(annotation) is dict
    parts = (
        typing.get_args(annotation)
        if many or typing.get_origin(annotation) in (types.UnionType, typing.Union)
        else (annotation,)
    )
    parts = tuple(typing.get_args(p)[0] if typing.get_origin(p) is Annotated else p for p in parts)
    section = next((p for p in parts if isinstance(p, type) and issubclass(p, Section)), None)
    return section, many, type(None) in parts


def _long(value: Any, section: type[Section]) -> Any:
    if isinstance(value, dict):
        return lengthen(value, section)
    return {section.short: value} if section.short else value


def _merge(into: dict[str, Any], values: Mapping[str, Any], at: Where, layer: Layer | None, tree: Tree | None) -> None:
    for key, value in values.items():
        way = (*at, key)
        if isinstance(value, Mapping):
            if not isinstance(into.get(key), dict) or {*value} >= ENDS:
                if tree is not None:
                    tree.drop(way)
                into[key] = {}
            _merge(into[key], value, way, layer, tree)
        else:
            into[key] = value
        if tree is not None and layer is not None:
            tree.origins[way] = layer.place(way)


def _same(old: Any, new: Any) -> bool:
    return str(old).lower() == str(new).lower()
