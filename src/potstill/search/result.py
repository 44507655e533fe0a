"""What a sweep gives back."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass
class SweepResult:
    """A sweep, as far as it is.

    Attributes:
        path: its folder.
        facts: what ``sweep.json`` says.
    """

    path: Path
    facts: dict[str, Any] = field(repr=False)

    @property
    def trials(self) -> list[dict[str, Any]]:
        """Every trial: number, state, settings, value, costs, epochs, seconds, home, why."""
        return list(self.facts["trials"])

    @property
    def best(self) -> dict[str, Any] | None:
        """The most accurate trial on the validation data; None where none is done."""
        return next((t for t in self.trials if t["number"] == self.facts["best"]), None)

    @property
    def settings(self) -> dict[str, Any]:
        """The settings of the best trial, by their keys."""
        return dict(self.best["settings"]) if self.best else {}

    @property
    def value(self) -> float | None:
        """Top-1 of the best trial on the validation data, in [0, 1]."""
        return float(self.best["value"]) if self.best else None

    @property
    def front(self) -> list[dict[str, Any]]:
        """With a second aim: the trials that no other beats in both, by cost."""
        rows = {t["number"]: t for t in self.trials}
        return [rows[number] for number in self.facts["front"]]
