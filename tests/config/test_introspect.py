from __future__ import annotations

import inspect
import subprocess
import sys
from pathlib import Path
from typing import Literal, get_args

import pytest
from pydantic import ValidationError

from potstill.config.introspect import is_fact, read_class, settings_model
from potstill.config.source import NO_DEFAULT, find_module, has_parameters
from potstill.errors import ConfigError
from potstill.losses import zoo
from potstill.ranges import Positive
from tests.losses.zoo import ZOO, build

LOSSES = {name: f"potstill.losses.{file}:{name}" for name, file in zoo().items()}


@pytest.fixture
def mine(tmp_path: Path):
    """Write a file of losses, give its path."""

    def write(source: str, name: str = "mine.py") -> str:
        (tmp_path / name).write_text(source)
        return str(tmp_path / name)

    return write


@pytest.mark.parametrize("name", LOSSES)
def test_the_source_says_what_the_class_says(name: str) -> None:
    """Every loss of the zoo: names and defaults read from the source are those of the imported class."""
    from potstill import losses

    cls = getattr(losses, name)
    source = read_class(LOSSES[name])
    found = {n: p for n, p in inspect.signature(cls.__init__).parameters.items() if n != "self"}
    if cls.__init__ is losses.Loss.__init__ or "args" in found:
        found = {}
    assert {*source.settings, *source.facts, *source.unfit} == {*found}
    assert {*source.facts} == {name for name in found if is_fact(name)}
    for setting in source.settings.values():
        assert setting.default is found[setting.name].default or setting.default == found[setting.name].default
    settings_model(LOSSES[name])()  # the defaults satisfy their own ranges
    assert source.doc == inspect.getdoc(cls)


@pytest.mark.parametrize("name", LOSSES)
def test_whether_a_loss_has_parameters_is_seen(name: str) -> None:
    file = zoo()[name]
    made = [build(file, settings) for settings in ZOO[file].variants]
    assert has_parameters(LOSSES[name]) == any(sum(p.numel() for p in loss.parameters()) for loss in made)


def test_types_defaults_and_docstring(mine) -> None:
    path = mine(
        """
from typing import Literal
import typing
RATE = 10 / 240
class Mine(Base):
    '''What it does.'''
    def __init__(self, s_shape, a: Positive, b: 'int | None' = None, c: tuple[float, ...] = (1.0, 2.0), *,
                 d: Literal["x", "y"] = "x", e: typing.Literal[1, 2] = 2, f: float = RATE, g: Weird = None,
                 h: Annotated[float, Gt(0), Lt(2)] = 1.0, i: float = compute()): ...
"""
    )
    source = read_class(f"{path}:Mine")
    assert source.doc == "What it does."
    assert source.facts == ("s_shape",)
    assert source.unfit == {"g": "Weird"}
    types = {s.name: s.type for s in source.settings.values()}
    assert types["a"] == Positive
    assert types["b"] == int | None
    assert types["d"] == Literal["x", "y"]
    assert get_args(types["c"])[0] == tuple[float, ...]
    defaults = {s.name: s.default for s in source.settings.values()}
    assert defaults == {
        "a": NO_DEFAULT,
        "b": None,
        "c": (1.0, 2.0),
        "d": "x",
        "e": 2,
        "f": 10 / 240,
        "h": 1.0,
        "i": NO_DEFAULT,
    }
    assert [s.name for s in source.settings.values() if s.required] == ["a"]
    model = settings_model(f"{path}:Mine")
    assert model(a=1, c=[1, 2.5]).model_dump(exclude_unset=True) == {"a": 1.0, "c": (1.0, 2.5)}
    for wrong in (
        {"a": 0},
        {},
        {"a": 1, "b": "x"},
        {"a": 1, "d": "z"},
        {"a": 1, "h": 2.0},
        {"a": 1, "k": 1},
        {"a": True},
        {"a": 1, "c": ["x"]},
    ):
        with pytest.raises(ValidationError):
            model(**wrong)


def test_reading_runs_nothing(mine, tmp_path: Path) -> None:
    path = mine(
        f"""
open({str(tmp_path / "ran")!r}, "w")
class Bad:
    def __init__(self, a: __import__("os").mkdir({str(tmp_path / "made")!r}) = open({str(tmp_path / "ran")!r}, "w")): ...
class Worse:
    def __init__(self, a: (lambda: exit())()): ...
"""
    )
    assert [*read_class(f"{path}:Bad").unfit] == ["a"]
    with pytest.raises(ConfigError, match="type that no configuration can give"):
        read_class(f"{path}:Worse")
    assert [p.name for p in tmp_path.iterdir()] == ["mine.py"]


def test_an_inherited_constructor_is_found(mine) -> None:
    path = mine(
        """
from potstill.losses.kd import KD as Hinton
class Mine(Hinton): ...
class Own(Base):
    def __init__(self, x: int = 1): ...
class Heir(Own): ...
class Loop(Loop): ...
"""
    )
    assert [*read_class(f"{path}:Mine").settings] == ["temperature", "standardize"]
    assert [*read_class(f"{path}:Heir").settings] == ["x"]
    assert read_class(f"{path}:Loop").settings == {}


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("kd", "must be file.py:Class or module:Class"),
        (":", "must be file.py:Class"),
        ("./minne.py:A", "no such file: ./minne.py"),
        ("potstill.losses.kdd:KD", "no module 'potstill.losses.kdd'"),
        ("nowhere.at.all:KD", "no module"),
        ("potstill.losses.kd:KDD", "no class 'KDD' in kd.py. Did you mean 'KD'?"),
        ("sys:A", "no module 'sys'"),
    ],
)
def test_what_is_not_there_is_said(spec: str, says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read_class(spec)
    assert says in caught.value.what


def test_a_file_that_is_not_python_is_said(mine) -> None:
    with pytest.raises(ConfigError, match="cannot be read as Python"):
        read_class(f"{mine('class A(')}:A")
    with pytest.raises(ConfigError, match="cannot be read as Python"):
        read_class(f"{mine('x' + chr(0), 'null.py')}:A")


def test_foreign_classes_are_read_leniently() -> None:
    sgd = read_class("torch.optim.sgd:SGD", lenient=True).settings
    assert {"lr", "momentum", "nesterov"} <= {*sgd}
    assert sgd["lr"].default == 1e-3


def test_finding_a_module_imports_nothing() -> None:
    code = (
        "import sys\nfrom potstill.config.introspect import find_module, read_class\n"
        "assert find_module('potstill.losses.kd').name == 'kd.py'\n"
        "read_class('torch.optim.sgd:SGD', lenient=True)\n"
        "assert not {'torch', 'potstill.losses'} & {*sys.modules}"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    assert find_module("potstill").name == "__init__.py"


def test_strict_inside_containers() -> None:
    model = settings_model("potstill.losses.mlkd:MLKD")
    assert model(temperatures=[1, 2]).temperatures == (1.0, 2.0)
    with pytest.raises(ValidationError):
        model(temperatures=[True])
