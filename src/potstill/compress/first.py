"""What a chain begins with: a run, a net, or a configuration, whose student is trained first."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from torch import nn

from potstill import run
from potstill.compress.recover import kept
from potstill.config.load import recipes, resolve
from potstill.config.schema import Config
from potstill.config.sections import TeacherConfig
from potstill.console import Console
from potstill.errors import ConfigError
from potstill.models import resolve as net_of
from potstill.models.net import Net
from potstill.models.resolve import load_student
from potstill.ready import Objects
from potstill.runs import RunFolder

NAME = "run"
"""Of the run in the folder of a compression."""


def is_recipe(model: Any) -> bool:
    """Whether it names a configuration, by a file or as a recipe of potstill, and no net."""
    if not isinstance(model, str | Path):
        return False
    return str(model) in recipes() or Path(model).suffix in (".yaml", ".yml")


def trained(config: Config, objects: Objects | None, home: Path, console: Console) -> run.RunResult:
    """The run of that configuration in ``home``: begun, resumed, or as it is when it is done.

    Raises:
        ConfigError: another run is there.
    """
    if not (home / "run.json").exists():
        start = run.distill if config.kind == "distill" else run.train
        placed = config.model_copy(update={"out": str(home.parent), "name": home.name})
        return start(placed, objects, command=["potstill compress"], console=console)
    if _what(resolve([str(home / "config.yaml")]).config) != _what(config):
        raise ConfigError(
            f"{home} is a run of other settings",
            why="nothing that is done is ever overwritten",
            hint="another --out, or move the folder away",
        )
    if RunFolder.open(home).facts["status"] != "done":
        return run.resume(home, objects=objects, console=console)
    return run.RunResult(home, RunFolder.open(home).facts, load_student(home, trust_code=config.trust_code))


def read_recipe(recipe: str, files: Sequence[str], more: Mapping[str, Any], data: Any, trust_code: bool) -> Config:
    """The configuration of the student that is compressed."""
    if data is not None and not isinstance(data, str | Path):
        raise ConfigError(
            f"a configuration names its data; got data={type(data).__name__}",
            hint="potstill.distill(...), then its path",
        )
    flags = {**more, **({"data.source": str(data)} if data is not None else {})}
    config = resolve([recipe, *files], [], flags).config
    return config.model_copy(update={"trust_code": config.trust_code or trust_code})


def source_of(
    model: str | Path | nn.Module | Net,
    teacher: str | nn.Module | Net | None,
    data: Any,
    trust_code: bool,
    files: Sequence[str] = (),
    more: Mapping[str, Any] = MappingProxyType({}),
) -> tuple[Net, Config, Objects]:
    """The net, the settings of its training, and what was given as objects."""
    objects, flags = Objects(), dict(more)
    if data is not None:
        if isinstance(data, str | Path):
            flags["data.source"] = str(data)
        else:
            objects.data, flags["data.source"] = data, f"object:{type(data).__name__}"
    own = Path(model) / "config.yaml" if isinstance(model, str | Path) else None
    if own is not None and own.is_file():
        read = resolve([str(own), *files], [], flags).config
        config = resolve([], [], {**kept(read), "student.model": str(model)}, "train").config
        config = config.model_copy(update={"compress": read.compress})
    elif data is None and not files:
        raise ConfigError("which data?", hint="data=..., --data folder:PATH; a run directory knows its own")
    else:
        named = str(model) if isinstance(model, str | Path) else "object:model"
        config = resolve(files, [], {"student.model": named, **flags}, "train").config
    config = config.model_copy(update={"trust_code": trust_code})
    net = net_of(str(model) if isinstance(model, Path) else model, trust_code=trust_code)
    if isinstance(teacher, str):
        config = config.model_copy(update={"teacher": TeacherConfig(model=teacher)})
    elif teacher is not None:
        objects.teacher = teacher
    elif isinstance(model, nn.Module | Net):
        objects.teacher = copy.deepcopy(net)
    else:
        config = config.model_copy(update={"teacher": TeacherConfig(model=str(model))})
    return net, config, objects


def _what(config: Config) -> dict[str, Any]:
    """What makes two runs the same."""
    return config.model_dump(mode="json", exclude={"out", "name", "track", "compress", "trust_code"})
