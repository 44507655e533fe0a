"""Python source, read and never run: modules, classes, literals."""

from __future__ import annotations

import ast
import importlib.util
import inspect
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from potstill.errors import ConfigError, did_you_mean

NO_DEFAULT: Any = inspect.Parameter.empty
"""Of what has no value, or none that can be read."""
LAYERS = {
    "Parameter",
    "ParameterList",
    "Linear",
    "Conv1d",
    "Conv2d",
    "ConvTranspose2d",
    "BatchNorm1d",
    "BatchNorm2d",
    "Embedding",
}


def find_module(module: str) -> Path:
    """The file of ``package.module`` or ``file.py``, found without importing anything.

    Raises:
        ConfigError: there is none, or it is not Python source.
    """
    if module.endswith(".py"):
        path = Path(module).expanduser()
        if not path.is_file():
            near = did_you_mean(path.name, (p.name for p in path.parent.glob("*.py")))
            raise ConfigError(f"no such file: {module}.{near}")
        return path
    top, *rest = module.split(".")
    try:
        spec = importlib.util.find_spec(top)
    except (ImportError, ValueError):
        spec = None
    origin = Path(spec.origin) if spec and spec.origin else None
    if rest and spec:
        folders = [Path(folder).joinpath(*rest) for folder in spec.submodule_search_locations or ()]
        files = [f for folder in folders for f in (folder.with_suffix(".py"), folder / "__init__.py")]
        origin = next((f for f in files if f.is_file()), None)
    if origin is None or origin.suffix != ".py":
        raise ConfigError(f"no module {module!r}", hint="a file of your own is ./file.py:Class")
    return origin


@cache
def tree_of(path: Path) -> ast.Module:
    try:
        return ast.parse(path.read_bytes(), str(path))
    except (OSError, SyntaxError, ValueError) as error:
        raise ConfigError(f"{path} cannot be read as Python: {error}") from None


def constants_of(tree: ast.Module) -> Iterator[tuple[str, Any]]:
    for statement in tree.body:
        target = statement.targets[0] if isinstance(statement, ast.Assign) else getattr(statement, "target", None)
        if isinstance(target, ast.Name) and isinstance(statement, ast.Assign | ast.AnnAssign) and statement.value:
            value = literal(statement.value, {})
            if value is not NO_DEFAULT:
                yield target.id, value


def literal(node: ast.expr, constants: dict[str, Any]) -> Any:
    """The value of a literal, a constant of the module, or a product or quotient of them (``10 / 240``)."""
    match node:
        case ast.Name(name):
            return constants.get(name, NO_DEFAULT)
        case ast.BinOp(left, ast.Mult() | ast.Div() as operator, right):
            a, b = literal(left, constants), literal(right, constants)
            if isinstance(a, int | float) and isinstance(b, int | float):
                return a * b if isinstance(operator, ast.Mult) else a / b if b else NO_DEFAULT
            return NO_DEFAULT
    try:
        return ast.literal_eval(node)
    except ValueError:
        return NO_DEFAULT


def has_parameters(spec: str) -> bool:
    """Whether a loss seems to own parameters: whether its ``__init__``, or what that names in our code, makes layers."""
    module, _, name = spec.rpartition(":")
    todo, seen = [(find_module(module), name)], set[tuple[Path, str]]()
    while todo:
        path, name = todo.pop()
        if (path, name) in seen:
            continue
        seen.add((path, name))
        body = tree_of(path).body
        imported = {
            alias.asname or alias.name: (n.module, alias.name)
            for n in body
            if isinstance(n, ast.ImportFrom) and n.module and n.module.startswith("potstill.")
            for alias in n.names
        }
        if name in imported:
            todo.append((find_module(imported[name][0]), imported[name][1]))
            continue
        node = next((n for n in body if _names(n) == name), None)
        init = next(
            (f for f in getattr(node, "body", ()) if isinstance(f, ast.FunctionDef) and f.name == "__init__"), node
        )
        for part in ast.walk(init) if init else ():
            if isinstance(part, ast.Attribute) and part.attr in LAYERS:
                return True
            if isinstance(part, ast.Name) and isinstance(part.ctx, ast.Load) and part.id != name:
                todo.append((path, part.id))
    return False


def _names(node: ast.stmt) -> str | None:
    """What a statement of a module defines."""
    if isinstance(node, ast.ClassDef | ast.FunctionDef):
        return node.name
    target = node.targets[0] if isinstance(node, ast.Assign) else getattr(node, "target", None)
    return target.id if isinstance(target, ast.Name) else None
