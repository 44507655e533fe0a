"""Ranges and choices as they are written."""

from __future__ import annotations

import pytest

from potstill.config.load import resolve
from potstill.errors import ConfigError
from potstill.search.space import dimension, published, read, settled, usual

NETS = {"teacher.model": "resnet14", "student.model": "resnet8"}


@pytest.mark.parametrize(
    ("spec", "low", "high", "log", "whole"),
    [
        ("1..20", 1, 20, True, True),
        ("1..9", 1, 9, False, True),
        ("0..20", 0, 20, False, True),
        ("-5..50", -5, 50, False, True),
        ("1e-4..1e-1", 1e-4, 1e-1, True, False),
        (".5..2.", 0.5, 2.0, False, False),
        ("0.1..10", 0.1, 10.0, True, False),
        ((1, 20.0), 1.0, 20.0, True, False),
    ],
)
def test_ranges(spec: object, low: float, high: float, log: bool, whole: bool) -> None:
    d = dimension("data.batch", spec)
    assert (d.low, d.high, d.log, d.whole) == (low, high, log, whole)
    assert isinstance(d.low, int) is whole


def test_choices_keep_their_types_and_brackets() -> None:
    d = dimension("student", "resnet8,zoo:cnn(widths=(4, 8))")
    assert d.key == "student.model"
    assert d.ends() == ["resnet8", "zoo:cnn(widths=(4, 8))"]
    assert dimension("data.batch", "16,32").ends() == [16, 32]
    assert dimension("clip", [None, 5.0]).value("None") is None
    assert dimension("data.batch", "16,32").drawn(32) == "32"


@pytest.mark.parametrize(
    ("key", "spec", "said"),
    [
        ("optim.lr", "5..1", "the range is empty"),
        ("optim.lr", "1..1", "the range is empty"),
        ("optim.lr", "3", "must be a range"),
        ("optim.lr", "", "must be a range"),
        ("optim.lr", "a..b", "must be a range"),
        ("optim.lr", "1,,2", "must be a range"),
        ("optim.lr", "1,1", "twice"),
        ("optim lr", "1..2", "KEY=RANGE"),
        ("prune", "0..1", "below 1"),
        ("prune", "0.1,0.2", "range of shares"),
    ],
)
def test_what_is_no_range(key: str, spec: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        dimension(key, spec)


def test_items() -> None:
    assert [d.key for d in read(["optim.lr=0.1..1", "student=a,b"])] == ["optim.lr", "student.model"]
    for items, said in ((["optim.lr"], "KEY=RANGE"), (["student=a,b", "student.model=c,d"], "varied twice")):
        with pytest.raises(ConfigError, match=said):
            read(items)


def test_whole_numbers_are_numbers_where_the_setting_is_one() -> None:
    config = resolve([], [], NETS).config
    temperature, epochs = settled(read(["losses.kd.temperature=1..20", "epochs=1..20"]), config)
    assert (temperature.whole, epochs.whole) == (False, True)
    assert epochs.value(7) == 7
    assert isinstance(epochs.value(7), int)


def test_the_usual_space_is_about_the_published_values() -> None:
    config = resolve([], [], NETS).config
    space = {d.key: (d.low, d.high, d.log) for d in usual(config)}
    assert space["losses.kd.temperature"] == (1, 20, True)
    assert space["losses.kd.weight"] == pytest.approx((0.09, 9, True))
    assert space["losses.ce.weight"] == pytest.approx((0.01, 1, True))
    assert published(usual(config), config) == {
        "losses.kd.temperature": 4,
        "losses.kd.weight": 0.9,
        "losses.ce.weight": 0.1,
    }
    alone = resolve([], [], {"student.model": "resnet8"}, "train").config
    assert [d.key for d in usual(alone)] == ["optim.lr", "optim.weight_decay"]


def test_what_lies_outside_is_not_published() -> None:
    config = resolve([], [], NETS).config
    space = settled(read(["losses.kd.temperature=5..20", "student=resnet8,resnet14", "prune=0..0.5"]), config)
    assert published(space, config) == {"student.model": "resnet8", "prune": 0.0}
