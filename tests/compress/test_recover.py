"""What a recovery says of its teacher."""

from __future__ import annotations

import pytest

from potstill.compress.recover import Recover, advice
from potstill.config.load import resolve
from potstill.config.stages import recovery
from potstill.errors import ConfigError


def test_a_teacher_that_does_harm_is_told() -> None:
    assert "7.1 points more" in advice({"mean": -0.071})[0]
    assert advice({"mean": 0.01}) == advice(None) == []


def test_what_is_advised_is_possible() -> None:
    """The settings that the advice names are those of a recovery by kd, and ``dist`` is a method."""
    settings = {"losses.kd.weight": 1, "losses.ce.weight": 1}
    losses = resolve([], [], recovery({"method": "kd", "settings": settings}), "distill").config.losses
    assert {name: loss.weight for name, loss in losses.items()} == {"ce": 1, "kd": 1}
    Recover(method="dist")


def test_wrong_settings_are_told_when_it_is_made() -> None:
    with pytest.raises(ConfigError, match="Did you mean 'temperature'"):
        Recover(settings={"losses.dist.temprature": 2})
    with pytest.raises(ConfigError, match="Did you mean 'dist'"):
        Recover(method="dits")
