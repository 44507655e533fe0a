"""Configurations as text: complete YAML that reads back equal, with origins where asked, and the JSON schema."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import yaml

from potstill.config.schema import Config
from potstill.config.yaml import parse, scalar


class _Dumper(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:
        return True


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.Node:
    """Text in quotes where YAML 1.2 would read something else; PyYAML sees to what YAML 1.1 would."""
    style = '"' if not text.isprintable() else None if scalar(text) is text else "'"
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


def _items(dumper: yaml.SafeDumper, items: Iterable[Any]) -> yaml.Node:
    return dumper.represent_sequence("tag:yaml.org,2002:seq", list(items), flow_style=True)


_Dumper.add_representer(str, _text)
_Dumper.add_representer(list, _items)
_Dumper.add_representer(tuple, _items)


def to_yaml(values: Mapping[str, Any]) -> str:
    """YAML of plain values, keys in their order; read back by :func:`potstill.config.yaml.parse` it is equal."""
    return yaml.dump(dict(values), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)


def dump(config: Config) -> str:
    """The complete configuration as YAML: ``potstill distill`` of it repeats the run."""
    return to_yaml(config.model_dump(mode="json", by_alias=True))


def explain(config: Config, origins: Mapping[str, str]) -> str:
    """The YAML of :func:`dump` with the origin of each value as a comment."""
    text = dump(config)
    lines, places = text.splitlines(), parse(text, "").places
    width = min(max(map(len, lines)), 60)
    keys = {way: place for way, place in places.items() if all(isinstance(part, str) for part in way)}
    holders = {way[:-1] for way in keys}
    for way, place in keys.items():
        if way in holders:
            continue
        line = int(place.split(":")[1]) - 1
        key = ".".join(map(str, way))
        lines[line] = f"{lines[line]:<{width}}  # {origins.get(key, 'default')}"
    return "\n".join(lines) + "\n"


def json_schema() -> dict[str, Any]:
    """The JSON schema of the configuration, for editors: ``# yaml-language-server: $schema=potstill.schema.json``."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **Config.model_json_schema(),
        "title": "potstill",
    }
