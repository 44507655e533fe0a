"""The commands as functions, with the same names and defaults; nets and data may be objects."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import nn

from potstill import run
from potstill.config.load import Resolved, resolve
from potstill.console import Console
from potstill.models.net import Net

Model = str | nn.Module | Net
Factory = Callable[[], nn.Module]


def distill(
    teacher: Model | None = None,
    student: Model | Factory | None = None,
    data: Any = "digits",
    method: str | None = "kd",
    *,
    quiet: bool = False,
    **settings: Any,
) -> run.RunResult:
    """Distil a teacher into a student; compare it with the same student alone; write a run directory with a report.

    Args:
        teacher: a module, or a text that names one (``runs/teacher``, ``hf:microsoft/resnet-50``, ``zoo:resnet32x4``; a net
            without weights is taught first).
        student: a module (every seed then starts from its weights), a function without arguments that makes a fresh one, or
            a text that names one.
        data: ``digits``, ``folder:PATH`` ..., a torch ``Dataset`` of (picture, label), or a pair or triple of them. Each of
            these three may also be a mapping, as a configuration has it: ``data={"source": "digits", "labels": 100}``.
        method: published methods joined by ``+``; see ``potstill list methods``.
        quiet: print nothing.
        **settings: everything that a configuration has, by the same names: ``epochs=30``, ``seeds=3``, ``optim={"lr": 0.1}``,
            ``losses={"kd": {"temperature": 2}}``, ``out="runs"``.

    Returns:
        the run: ``run.path``, ``run.student`` (the trained module), ``run.results``.

    Raises:
        PotstillError: of the class of what is wrong.
    """
    resolved, objects = _resolved("distill", teacher, student, data, {"method": method, **settings})
    return run.distill(resolved.config, objects, user=_user(resolved), console=Console(quiet), command=_call("distill"))


def train(
    model: Model | Factory | None = None, data: Any = "digits", *, quiet: bool = False, **settings: Any
) -> run.RunResult:
    """Train a net on the labels: a teacher, or any. Arguments as in :func:`distill`."""
    resolved, objects = _resolved("train", None, model, data, settings)
    return run.train(resolved.config, objects, user=_user(resolved), console=Console(quiet), command=_call("train"))


def load(path: str | Path, *, trust_code: bool = False) -> nn.Module:
    """The trained student of a run directory: the plain module, in eval mode. It wants normalised pictures: see
    ``potstill.models.load_student(path).preprocess``.

    Args:
        trust_code: run the code (FILE.py, module) that the run names, where its student is a net of yours.

    Raises:
        RefusedError: the student comes from such code, and it is not trusted.
    """
    from potstill.models.resolve import load_student

    return load_student(path, trust_code=trust_code).module.eval()


def resume(
    path: str | Path,
    *,
    teacher: Model | None = None,
    student: Model | Factory | None = None,
    data: Any = None,
    allow_change: bool = False,
    quiet: bool = False,
) -> run.RunResult:
    """Go on with an interrupted run. Objects that the run was started with are given again."""
    objects = run.Objects(
        None if isinstance(teacher, str) else teacher,
        None if isinstance(student, str) else student,
        None if isinstance(data, str) else data,
    )
    given = any(o is not None for o in (objects.teacher, objects.student, objects.data))
    return run.resume(path, allow_change=allow_change, objects=objects if given else None, console=Console(quiet))


def _resolved(
    kind: Any, teacher: Any, student: Any, data: Any, settings: Mapping[str, Any]
) -> tuple[Resolved, run.Objects]:
    flags, objects = settings_of(teacher, student, data, settings)
    return resolve([], [], flags, kind), objects


def settings_of(
    teacher: Any, student: Any, data: Any, settings: Mapping[str, Any]
) -> tuple[dict[str, Any], run.Objects]:
    """What a Python caller gives, as settings by their keys, and what of it are objects."""
    flags: dict[str, Any] = {}
    objects = run.Objects()
    for name, key, value in (
        ("teacher", "teacher.model", teacher),
        ("student", "student.model", student),
        ("data", "data.source", data),
    ):
        if value is None:
            continue
        if isinstance(value, str | Path):
            flags[key] = str(value)
        elif isinstance(value, Mapping):
            flags |= dict(_flat(value, f"{name}."))
        else:
            setattr(objects, name, value)
            flags[key] = f"object:{getattr(value, '__name__', type(value).__name__)}"
    return flags | dict(_flat(settings)), objects


def _flat(tree: Mapping[str, Any], way: str = "") -> list[tuple[str, Any]]:
    pairs: list[tuple[str, Any]] = []
    for key, value in tree.items():
        if isinstance(value, Mapping):
            pairs += _flat(value, f"{way}{key}.")
        else:
            pairs.append((way + key, value))
    return pairs


def _user(resolved: Resolved) -> str:
    from potstill.config.dump import to_yaml

    return to_yaml(resolved.user)


def _call(verb: str) -> list[str]:
    return [f"potstill.{verb}(...)"]
