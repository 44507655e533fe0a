"""Files, recipes and the command line become one checked configuration."""

from __future__ import annotations

import copy
import importlib.util
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from potstill import methods
from potstill.config import later
from potstill.config.check import check
from potstill.config.dump import dump, explain
from potstill.config.merge import Layer, Tree, from_command, from_document, leaves
from potstill.config.problems import ConfigErrors, Problem, choice
from potstill.config.schema import Config
from potstill.config.yaml import read
from potstill.errors import ConfigError, did_you_mean

RECIPES = Path(__file__).parent.parent / "recipes"
Kind = Literal["distill", "train"]


@dataclass(frozen=True)
class Resolved:
    """A checked configuration, and how it came about.

    Attributes:
        config: the configuration, complete.
        origins: the origin of each value by its key, ``{"optim.lr": "recipe.yaml:7:3"}``; values not named are defaults.
        user: only what the user gave, as a tree.
        notices: what the user should know: one sentence each.
        tree: the values as they were laid over each other, with their origins.
    """

    config: Config
    origins: dict[str, str]
    user: dict[str, Any]
    notices: tuple[str, ...] = ()
    tree: Tree = field(default_factory=Tree, repr=False)

    def why(self) -> str:
        """The configuration as YAML with the origin of each value."""
        return explain(self.config, self.origins)


def recipes() -> dict[str, Path]:
    """The recipes that come with potstill, by name."""
    return {path.stem: path for path in sorted(RECIPES.glob("*.yaml"))}


def find(name: str) -> Path:
    """The file that the user means: a path, or the name of a recipe.

    Raises:
        ConfigError: there is none: says the nearest name.
    """
    path = Path(name).expanduser()
    if path.is_file():
        return path
    if name in recipes():
        return recipes()[name]
    if path.is_dir():
        inside = path / "config.yaml"
        hint = f"{inside}, or potstill resume {path}" if inside.is_file() else None
        raise ConfigError(f"{name} is a folder, a configuration is a file.", hint=hint)
    here = [str(p) if len(path.parts) > 1 else p.name for p in path.parent.glob("*.y*ml")]
    near = did_you_mean(name, [*here, *recipes()])
    raise ConfigError(f"no such file or recipe: {name}.{near}", hint=None if near else "potstill list recipes")


def resolve(
    files: Iterable[str] = (),
    overrides: Sequence[str] = (),
    flags: Mapping[str, Any] | None = None,
    kind: Kind | None = None,
) -> Resolved:
    """Put settings together: defaults < recipes and files in their order < flags and ``key=value``.

    A ``method`` replaces the losses of what comes before it; ``losses`` beside it and after it refine it. A file that has
    ``losses`` and no ``method`` says them all.

    Args:
        files: YAML files and names of recipes.
        overrides: ``key=value`` items.
        flags: values by the key of their setting: ``{"optim.lr": 0.1}``.
        kind: what the command does; None: what the files say.

    Raises:
        ConfigError: all faults at once, each with its place (:class:`ConfigErrors`); or a file that cannot be read.
        RefusedError: a file with tags, or too large.
    """
    files = list(files)
    layers = [
        from_document(read(path, path.name if path in recipes().values() else str(path))) for path in map(find, files)
    ]
    command, problems = from_command(flags or {}, list(overrides))
    layers.append(command)
    spare = copy.deepcopy(layers) if any("sweep" in layer.values for layer in layers) else []
    try:
        resolved = _settled(layers, problems, kind)
    except ConfigError as error:
        own = next((p for p in map(find, files) if p.name == "config.yaml" and (p.parent / "run.json").is_file()), None)
        if own and not (flags or overrides):
            error.why = f"{own} was whole when the run wrote it: it has been cut or changed since"
        raise
    found = later.compress(resolved.config, lambda flags: resolve([], [], flags, "distill"))
    if spare:
        found += later.sweep(resolved.config, lambda more: _settled([*copy.deepcopy(spare), more], [], kind))
    if found:
        raise _error(found, resolved.tree)
    return resolved


def _settled(layers: list[Layer], problems: list[Problem], kind: Kind | None) -> Resolved:
    """The layers laid over each other and checked.

    Raises:
        ConfigErrors: what is wrong, ``problems`` included.
    """
    tree, user = Tree(), Tree()
    kind = _kind(layers, kind, tree, problems)
    _method(layers, kind, tree, problems)
    for layer in layers:
        if "method" in layer.values:
            user.drop(("losses",))
        user.put(Layer(layer.name, copy.deepcopy(layer.values), layer.places))
    notices = _losses(layers, tree, problems)
    if tree.values.get("ray") and not (tree.values.get("launcher") or (tree.values.get("sweep") or {}).get("launcher")):
        notices = (*notices, "the settings under ray are for launcher=ray, which is not asked for")
    tree.default(("track",), ["tensorboard"] if importlib.util.find_spec("tensorboard") else [], "default")
    config = check(tree, problems)
    if config is None:
        raise _error(problems, tree)
    return Resolved(config, _origins(tree), user.values, notices, tree)


def _kind(layers: list[Layer], kind: Kind | None, tree: Tree, problems: list[Problem]) -> Kind:
    """What is to be done; a file that was made for the other command is refused."""
    tree.origins[("kind",)] = "the command" if kind else "default"
    for layer in layers:
        said = layer.values.pop("kind", None)
        if said is None:
            continue
        if said not in ("distill", "train"):
            problems.append(Problem(("kind",), choice(said, ("distill", "train"))))
        elif kind and said != kind:
            problems.append(Problem(("kind",), f"is {said!r}, the command is `potstill {kind}`.", f"potstill {said}"))
        kind = kind or said
        tree.origins[("kind",)] = layer.place(("kind",))
    tree.values["kind"] = kind if kind in ("distill", "train") else "distill"
    return tree.values["kind"]


def _method(layers: list[Layer], kind: Kind, tree: Tree, problems: list[Problem]) -> None:
    """The default method, where nobody says a method or its losses; none for a net that learns alone."""
    said = [layer for layer in layers if "method" in layer.values]
    listed = any("losses" in layer.values for layer in layers[:-1])
    if not said:
        layers.insert(0, Layer("default", {"method": None if listed else "none" if kind == "train" else "kd"}))
    elif kind == "train" and said[-1].values["method"] not in ("none", None):
        what = f"`potstill train` learns from the labels, a method needs a teacher; got {said[-1].values['method']!r}."
        problems.append(Problem(("method",), what, "potstill distill --teacher MODEL"))


def _losses(layers: list[Layer], tree: Tree, problems: list[Problem]) -> tuple[str, ...]:
    """Lay the layers over each other; a method brings its losses and drops those before it."""
    notices = []
    for layer in layers:
        method, own = layer.values.get("method"), layer.values.get("losses")
        if "method" in layer.values:
            place = layer.place(("method",))
            before = tree.values.get("losses")
            before = before if isinstance(before, dict) else {}
            lost = [f"{tree.origin(('losses', name))} ({name})" for name in before if _by_hand(tree, name)]
            if lost:
                notices.append(f"method {method} ({place}) replaces the losses of {', '.join(lost)}")
            tree.drop(("losses",))
            base: dict[str, Any] = {}
            if isinstance(method, str):
                try:
                    base = methods.expand(method)
                except ConfigError as error:
                    problems.append(Problem(("method",), _no_method(method) or error.what))
                else:
                    problems += _strangers(layer, method, base, own)
            origin = f"published for {method}" if place == "default" else f"method {method}, {place}"
            tree.put(Layer(origin, {"losses": copy.deepcopy(base)}))
        tree.put(layer)
    method, losses = tree.values.get("method"), tree.values.get("losses")
    if isinstance(method, str) and isinstance(losses, dict) and not problems and {*losses} != {*methods.expand(method)}:
        tree.values["method"] = None  # losses were added by a later layer: the method's name no longer says it all
    return tuple(notices)


def _no_method(method: str) -> str | None:
    """What to say of the first name in ``"at+kdd"`` that is no method."""
    unknown = [n for n in (part.strip().lower() for part in method.split("+")) if n not in methods.PRESETS]
    near = did_you_mean(unknown[0], [*methods.PRESETS, "none"]) if unknown else ""
    return f"no such method: {unknown[0]!r}.{near} All: potstill list methods." if unknown and unknown[0] else None


def _by_hand(tree: Tree, name: str) -> bool:
    """Whether a loss, or a setting of it, was given by the user and not by a method."""
    ways = [way for way, _ in leaves(tree.values["losses"][name], ("losses", name))]
    return any(":" in tree.origins.get(way, "") and not tree.origins[way].startswith("method ") for way in ways)


def _strangers(layer: Layer, method: str, base: Mapping[str, Any], own: Any) -> list[Problem]:
    """Losses that stand beside a method, in one layer, and are not its own: which of the two is meant?"""
    names = [name for name in own if name not in base] if isinstance(own, dict) else []
    place = layer.place(("method",))
    known = "+".join([method, *(n for n in names if n in methods.PRESETS)])
    hint = f"method: {known}; or leave method out and name all losses"
    return [Problem(("losses", n), f"is not a loss of method {method!r} ({place}).", hint) for n in names]


def _error(problems: list[Problem], tree: Tree) -> ConfigErrors:
    def order(problem: Problem) -> tuple[str, int, int]:
        file, *numbers = tree.origin(problem.at).rsplit(":", 2)
        return (
            (file, int(numbers[0]), int(numbers[1])) if len(numbers) == 2 and "".join(numbers).isdigit() else ("", 0, 0)
        )

    problems = sorted(dict.fromkeys(problems), key=order)
    return ConfigErrors(problems, [tree.origin(p.at) for p in problems])


def _origins(tree: Tree) -> dict[str, str]:
    return {".".join(map(str, way)): origin for way, origin in tree.origins.items()}


__all__ = ["RECIPES", "Kind", "Resolved", "dump", "find", "recipes", "resolve"]
