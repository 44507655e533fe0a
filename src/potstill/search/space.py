"""What a sweep varies: settings with their ranges, read from ``KEY=LOW..HIGH`` and ``KEY=A,B``. No torch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from potstill.config.merge import leaves
from potstill.config.schema import Config
from potstill.config.space import FORMS, PRUNE, Dimension, dimension, is_number
from potstill.errors import ConfigError

TEMPERATURES = (1.0, 20.0)
AROUND = 10.0
"""A weight is searched from a tenth of its published value to ten times it."""

Flags = dict[str, Any]


def read(over: Mapping[str, Any] | Iterable[str]) -> list[Dimension]:
    """The dimensions of ``--over`` items, or of a mapping from keys to ranges.

    Raises:
        ConfigError: as :func:`dimension`; or a key twice.
    """
    if isinstance(over, Mapping):
        items = [(".".join(map(str, way)), spec) for way, spec in leaves(over)]
    else:
        if wrong := next((item for item in over if "=" not in item), None):
            raise ConfigError(f"must be KEY=RANGE, got {wrong!r}", where="--over", hint=FORMS)
        items = [(key, spec) for key, _, spec in (item.partition("=") for item in over)]
    dimensions = [dimension(key, spec) for key, spec in items]
    keys = [d.key for d in dimensions]
    if twice := next((key for key in keys if keys.count(key) > 1), None):
        raise ConfigError(f"{twice} is varied twice", where="--over")
    return dimensions


def settled(dimensions: Iterable[Dimension], config: Config) -> list[Dimension]:
    """The dimensions with their types known: ``temperature=1..20`` means numbers, ``epochs=5..20`` whole ones."""
    tree = config.model_dump(mode="json", by_alias=True)
    return [
        Dimension(d.key, float(d.low), float(d.high), d.log)
        if not d.choices and isinstance(at(tree, d.key), float)
        else d
        for d in dimensions
    ]


def usual(config: Config) -> list[Dimension]:
    """What is varied where nobody says: the temperature and the weight of each loss; of a net that learns alone the rate and
    the decay. Weights and rates go from a tenth of what they are to ten times that."""
    found: list[Dimension] = []

    def around(key: str, value: Any) -> None:
        if is_number(value) and value > 0:
            found.append(Dimension(key, value / AROUND, value * AROUND, log=True))

    if config.kind == "train":
        around("optim.lr", config.optim.lr)
        around("optim.weight_decay", config.optim.weight_decay)
        return found
    for name, loss in config.losses.items():
        if is_number(loss.settings.get("temperature")) and loss.weight:
            found.append(Dimension(f"losses.{name}.temperature", *TEMPERATURES, log=True))
        around(f"losses.{name}.weight", loss.weight)
    return found


def published(dimensions: Iterable[Dimension], config: Config) -> Flags:
    """What the search would have drawn to get the configuration as it is, where it could: that is the first trial."""
    tree = config.model_dump(mode="json", by_alias=True)
    now = {d.key: d.drawn(0.0 if d.key == PRUNE else at(tree, d.key)) for d in dimensions}
    return {key: value for key, value in now.items() if value is not None}


def at(tree: Any, key: str) -> Any:
    """The value of a key in nested mappings; None where there is none."""
    for part in key.split("."):
        tree = tree.get(part) if isinstance(tree, Mapping) else None
    return tree


__all__ = ["PRUNE", "Dimension", "dimension", "published", "read", "settled", "usual"]
