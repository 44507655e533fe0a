"""What a search varies: a setting with its range or its choices, as it is written. No torch."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from potstill.config.merge import OVERRIDE, leaves, lengthen
from potstill.config.yaml import value as parse_value
from potstill.errors import ConfigError

PRUNE = "prune"
"""What is no setting of a training: the share of the channels that go afterwards."""
RATIO = 10.0
"""From this ratio of its ends on a positive range is searched on a logarithmic scale."""
RANGE = re.compile(r"\s*([-+]?[0-9.eE]*[0-9.](?:[eE][-+]?[0-9]+)?)\s*\.\.\s*([-+]?[0-9.][-+0-9.eE]*)\s*")
FORMS = "--over losses.kd.temperature=1..20 (a range), --over student=resnet8,resnet14 (a choice)"


@dataclass(frozen=True)
class Dimension:
    """A setting that is varied.

    Attributes:
        key: of the setting, written out: ``student.model``; or ``prune``.
        low, high: the ends of a range, both included.
        log: whether its logarithm is searched evenly.
        whole: whether only whole numbers are meant.
        choices: instead of a range: the values by their names.
    """

    key: str
    low: float = 0.0
    high: float = 0.0
    log: bool = False
    whole: bool = False
    choices: tuple[tuple[str, Any], ...] = ()

    def ends(self) -> list[Any]:
        """The values that are checked before the first trial: both ends, or every choice."""
        return [self.value(label) for label, _ in self.choices] if self.choices else [self.low, self.high]

    def value(self, drawn: Any) -> Any:
        """The setting's value of what the search drew: a choice is drawn by its name."""
        return dict(self.choices)[drawn] if self.choices else int(drawn) if self.whole else drawn

    def drawn(self, value: Any) -> Any | None:
        """What the search would have drawn to get ``value``; None where it could not."""
        if self.choices:
            return next((label for label, own in self.choices if own == value), None)
        if isinstance(value, bool) or not isinstance(value, int | float) or not self.low <= value <= self.high:
            return None
        return None if self.whole and value != int(value) else value

    def words(self) -> str:
        """``1 .. 20, log``; ``resnet8, resnet14``."""
        if self.choices:
            return ", ".join(label for label, _ in self.choices)
        kinds = [name for name, on in (("log", self.log), ("whole numbers", self.whole)) if on]
        return ", ".join([f"{self.low:g} .. {self.high:g}", *kinds])

    def facts(self) -> dict[str, Any]:
        """As plain JSON."""
        return {**asdict(self), "choices": [label for label, _ in self.choices]}


def dimension(key: str, spec: Any) -> Dimension:
    """Read a dimension.

    Args:
        key: of the setting, as ``key=value`` has it; ``student`` is ``student.model``.
        spec: ``"1..20"``, a pair ``(1, 20)``, ``"a,b"``, or a list of values.

    Raises:
        ConfigError: it is no range and no choice, or an empty one.
    """
    where = f"--over {key}"
    if not OVERRIDE.fullmatch(f"{key}="):
        raise ConfigError(f"must be KEY=RANGE, got {key!r}", where="--over", hint=FORMS)
    tree: Any = 0
    for part in reversed(key.split(".")):
        tree = {part: tree}
    key = key if key == PRUNE else ".".join(map(str, next(leaves(lengthen(tree)))[0]))
    if isinstance(spec, tuple) and len(spec) == 2 and all(is_number(end) for end in spec):
        return _range(key, *spec, where)
    if isinstance(spec, str):
        if found := RANGE.fullmatch(spec):
            low, high = map(parse_value, found.groups())
            if not (is_number(low) and is_number(high)):
                raise ConfigError(f"must be LOW..HIGH with two numbers, got {spec!r}", where=where, hint=FORMS)
            return _range(key, low, high, where)
        pieces = [piece.strip() for piece in split(spec)]
        spec = [parse_value(piece) for piece in pieces]
    else:
        spec = list(spec) if isinstance(spec, Sequence) else [spec]
        pieces = [str(item) for item in spec]
    if key == PRUNE:
        raise ConfigError("must be a range of shares", where=where, hint="--over prune=0..0.7")
    if len(pieces) < 2 or not all(pieces):
        raise ConfigError(
            f"must be a range LOW..HIGH or several values A,B, got {','.join(pieces)!r}", where=where, hint=FORMS
        )
    if len({*pieces}) < len(pieces):
        raise ConfigError(f"has a value twice: {','.join(pieces)}", where=where)
    return Dimension(key, choices=tuple(zip(pieces, spec, strict=True)))


def split(text: str) -> list[str]:
    """``zoo:cnn(widths=(4, 8)),resnet8`` at the commas that no bracket holds."""
    depth, pieces = 0, [""]
    for letter in text:
        depth += (letter in "([{") - (letter in ")]}")
        if letter == "," and depth == 0:
            pieces.append("")
        else:
            pieces[-1] += letter
    return pieces


def is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _range(key: str, low: float, high: float, where: str) -> Dimension:
    if low >= high:
        raise ConfigError(f"the range is empty: {low:g}..{high:g}; the lower end stands first", where=where)
    if key == PRUNE:
        if not 0 <= low < high < 1:
            raise ConfigError(f"is a share of the channels, from 0 and below 1, got {low:g}..{high:g}", where=where)
        return Dimension(key, float(low), float(high))
    whole = isinstance(low, int) and isinstance(high, int)
    low, high = (low, high) if whole else (float(low), float(high))
    return Dimension(key, low, high, low > 0 and high / low >= RATIO, whole)
