"""Short names for people: a net, the spots of a link, its weight."""

from __future__ import annotations

from typing import Any

from potstill.report.read import dig, items, number, text
from potstill.report.words import clean, count

DERIVED = {"num_classes", "in_channels"}  # arguments that the data decide


def nets(student: Any, teacher: Any = None) -> tuple[str | None, str | None]:
    """What student and teacher are called; with their arguments where the model alone does not tell them apart."""
    names = [(text(dig(card, "model")) or "").removeprefix("zoo:") or None for card in (student, teacher)]
    if names[0] != names[1]:
        return names[0], names[1]
    return _with_arguments(names[0], student), _with_arguments(names[1], teacher)


def _with_arguments(name: str | None, card: Any) -> str | None:
    kwargs = dig(card, "kwargs")
    told = [f"{k} {_short(x)}" for k, x in kwargs.items() if k not in DERIVED] if isinstance(kwargs, dict) else []
    return f"{name} ({', '.join(told)})" if name and told else name


def _short(value: Any) -> str:
    return "-".join(map(str, value)) if isinstance(value, list) else str(value)


def link(loss: dict[str, Any]) -> dict[str, str]:
    """A link in words: name, loss with its settings, weight, spots with their shapes, parameters of its own."""
    shapes = items(loss.get("shapes"))
    at = items(loss.get("at")) or [loss.get("at")]
    spots = [_spot(pair, shapes[i] if i < len(shapes) else None) for i, pair in enumerate(at) if pair]
    settings = loss.get("settings")
    return {
        "name": clean(loss.get("name", "–"), 60),
        "use": clean(loss.get("use", "–"), 200)
        + (f" ({_pairs(settings)})" if isinstance(settings, dict) and settings else ""),
        "weight": _weight(loss.get("weight")),
        "at": clean("; ".join(spots) or "–", 600),
        "parameters": count(number(loss.get("parameters"))),
    }


def _spot(pair: Any, shapes: Any) -> str:
    """``logits`` where both say it there; ``student ← teacher`` where the spots have different names or shapes."""
    return _arrow(pair, str) + (f" ({_arrow(shapes, _shape)})" if shapes else "")


def _arrow(pair: Any, name: Any) -> str:
    if not isinstance(pair, list) or len(pair) != 2:
        return str(pair)
    return name(pair[0]) if pair[0] == pair[1] else f"{name(pair[0])} ← {name(pair[1])}"


def _shape(shape: Any) -> str:
    return "×".join(map(str, shape)) if isinstance(shape, list) else str(shape)


def _weight(weight: Any) -> str:
    """A number, or the settings of a schedule."""
    return (
        f"{weight:g}"
        if number(weight) is not None
        else clean(_pairs(weight) if isinstance(weight, dict) else weight, 100)
    )


def _pairs(settings: dict[str, Any]) -> str:
    return clean(", ".join(f"{k} {_short(x)}" for k, x in settings.items()), 300)
