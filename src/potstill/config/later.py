"""What a configuration says of jobs that come after or round its training, checked before it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from potstill.config.merge import Layer, leaves, lengthen
from potstill.config.problems import ConfigErrors, Problem
from potstill.config.schema import Config
from potstill.config.space import PRUNE, Dimension, dimension
from potstill.config.stages import recovery
from potstill.config.yaml import Where
from potstill.errors import ConfigError

FORMS = "losses.kd.temperature: 1..20 (a range), student: [resnet8, resnet14] (a choice)"
OVER: Where = ("sweep", "over")
RECOVER: Where = ("compress", "recover")


def compress(config: Config, resolve: Callable[[dict[str, Any]], Any]) -> list[Problem]:
    """What is wrong with the training that ``compress.recover`` describes: no such method, no such setting of it.

    Args:
        resolve: resolves flags of a distillation.
    """
    said = config.compress.recover if config.compress else None
    if not isinstance(said, dict):
        return []
    try:
        resolve(recovery(said))
    except ConfigErrors as errors:
        return [_place(p, said) for p in errors.problems]
    return []


def _place(problem: Problem, said: dict[str, Any]) -> Problem:
    """``method`` is a setting of the stage itself; others stand in its ``settings``."""
    own = {"optim.lr": "lr"}.get(problem.key, problem.key)
    if own in said:
        return Problem((*RECOVER, own), problem.what, problem.hint)
    return Problem((*RECOVER, "settings"), f"{problem.key}: {problem.what}", problem.hint)


def sweep(config: Config, again: Callable[[Layer], Any]) -> list[Problem]:
    """What is wrong with ``sweep.over``: no such key, no range, an end that its setting refuses, a key twice.

    Args:
        again: resolves the same configuration with one more layer over it.
    """
    problems: list[Problem] = []
    seen: dict[str, Where] = {}
    for way, spec in leaves(config.sweep.over if config.sweep else {}):
        at = (*OVER, *way)
        try:
            made = dimension(".".join(map(str, way)), spec)
        except ConfigError as error:
            problems.append(Problem(at, f"{error.what}.", FORMS))
            continue
        if made.key in seen:
            problems.append(Problem(at, f"{made.key} is varied twice."))
        seen[made.key] = at
        problems += _ends(made, at, again)
    return problems


def _ends(made: Dimension, at: Where, again: Callable[[Layer], Any]) -> list[Problem]:
    """Each end, or each choice, in its place in the configuration."""
    problems: dict[Problem, None] = {}
    for value in made.ends() if made.key != PRUNE else ():
        tree: Any = value
        for part in reversed(made.key.split(".")):
            tree = {part: tree}
        try:
            again(Layer("sweep.over", lengthen({**tree, "sweep": None})))
        except ConfigErrors as errors:
            for p in errors.problems:
                problems[Problem(at, p.what if p.key == made.key else f"{p.key}: {p.what}", p.hint)] = None
    return list(problems)
