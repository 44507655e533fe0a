"""Types of settings that pydantic does not have: durations, spots, lists of numbers. No torch."""

import re
from typing import Annotated, Any

from pydantic import Field, Strict

Natural = Annotated[int, Field(ge=0)]
Numbers = Annotated[tuple[float, ...], Strict(False)]
"""A list of numbers: a tuple in Python, a list in YAML."""

DURATION = re.compile(r"(?=.)(?:(\d+(?:\.\d+)?)d)?(?:(\d+(?:\.\d+)?)h)?(?:(\d+(?:\.\d+)?)m)?(?:(\d+(?:\.\d+)?)s)?")


def seconds(text: str) -> float:
    """The seconds of ``"90s"``, ``"30m"``, ``"2h"`` or ``"1h30m"``.

    Raises:
        ValueError: not a duration.
    """
    match = DURATION.fullmatch(text)
    total = (
        sum(float(n) * unit for n, unit in zip(match.groups("0"), (86400, 3600, 60, 1), strict=True)) if match else 0.0
    )
    if not total:
        raise ValueError("must be a time such as 90s, 30m, 2h or 1h30m")
    return total


def duration(text: Any) -> Any:
    """Hold a time limit to the form that :func:`seconds` reads."""
    if isinstance(text, str):
        seconds(text)
    return text


def spots(at: Any) -> Any:
    """The spots of a link in one form: a name, a pair ``(student's, teacher's)``, or a list of names and pairs.

    A list of two names is a pair: two spots with like names in both nets are ``[[a, a], [b, b]]``.

    Raises:
        ValueError: another form.
    """

    def pair(value: Any) -> bool:
        return isinstance(value, list | tuple) and len(value) == 2 and all(isinstance(v, str) for v in value)

    if at is None or isinstance(at, str):
        return at
    if pair(at):
        return tuple(at)
    if isinstance(at, list | tuple) and at and all(isinstance(a, str) or pair(a) for a in at):
        return [a if isinstance(a, str) else tuple(a) for a in at]
    raise ValueError("must be a spot, a pair [student's, teacher's] or a list of them")


def text(value: Any) -> Any:
    """A whole number as text, so that ``precision: 16`` needs no quotes."""
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


def several(value: Any) -> Any:
    """One name as a list of one."""
    return [value] if isinstance(value, str) else value


def amounts(value: Any) -> Any:
    """``"cpu=4,gpu=1"`` as a mapping; numbers as floats.

    Raises:
        ValueError: not of that form.
    """
    if isinstance(value, str):
        pairs = [part.partition("=") for part in value.split(",") if part.strip()]
        try:
            return {name.strip(): float(number) for name, _, number in pairs}
        except ValueError:
            raise ValueError("must be names and numbers such as cpu=4,gpu=1") from None
    if isinstance(value, dict):
        return {k: float(v) if isinstance(v, int) and not isinstance(v, bool) else v for k, v in value.items()}
    return value
