"""Settings of a class, read from its source without importing it: names, types, defaults, docstring."""

import ast
import dataclasses
import inspect
import typing
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Annotated, Any

import annotated_types
from pydantic import BaseModel, ConfigDict, Strict, create_model

import potstill.ranges
from potstill.config.source import NO_DEFAULT, constants_of, find_module, literal, tree_of
from potstill.errors import ConfigError, did_you_mean
from potstill.methods.facts import is_fact

TYPES: dict[str, Any] = {
    **{t.__name__: t for t in (float, int, bool, str, tuple, list, dict)},
    **{name: getattr(typing, name) for name in ("Literal", "Annotated", "Any", "Optional", "Union")},
    **{name: getattr(annotated_types, name) for name in ("Gt", "Ge", "Lt", "Le")},
    **{name: value for name, value in vars(potstill.ranges).items() if not name.startswith("_")},
}


@dataclass(frozen=True)
class Setting:
    """One argument of ``__init__``.

    Attributes:
        type: its type; Any where the annotation says nothing that is known here.
        written: the annotation as the source has it.
        default: its default; ``NO_DEFAULT`` where there is none, or none that can be read.
        required: whether the class has no default.
    """

    name: str
    type: Any
    written: str
    default: Any
    required: bool


@dataclass(frozen=True)
class Source:
    """What the source says of a class.

    Attributes:
        doc: its docstring.
        settings: what a configuration can set.
        facts: what it asks of nets and data (see :func:`potstill.methods.facts.is_fact`).
        unfit: optional arguments of types that no configuration can give, with their annotations.
    """

    spec: str
    path: Path
    doc: str
    settings: dict[str, Setting] = field(default_factory=dict)
    facts: tuple[str, ...] = ()
    unfit: dict[str, str] = field(default_factory=dict)


@cache
def read_class(spec: str, lenient: bool = False) -> Source:
    """Read the class ``"package.module:Class"`` or ``"./file.py:Class"``.

    Args:
        lenient: take an annotation that is not understood as Any, for classes that are not ours.

    Raises:
        ConfigError: no such module, file or class; or a setting whose annotation is not one of docs/design.md.
    """
    module, _, name = spec.rpartition(":")
    if not module or not name:
        raise ConfigError(f"must be file.py:Class or module:Class, got {spec!r}")
    path = find_module(module)
    tree = tree_of(path)
    classes = {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}
    if name not in classes:
        raise ConfigError(
            f"no class {name!r} in {path.name}.{did_you_mean(name, classes)} It has: {', '.join(classes) or 'none'}."
        )
    constants = dict(constants_of(tree))
    init = _init(name, classes, tree, path)
    source = Source(spec, path, inspect.cleandoc(ast.get_docstring(classes[name]) or ""))
    return source if init is None else _read_init(source, init, constants, lenient)


@cache
def settings_model(spec: str, lenient: bool = False) -> type[BaseModel]:
    """A model that checks the settings of a class. Fields without a readable default are optional where the class has one."""
    fields: dict[str, Any] = {
        s.name: (s.type, ... if s.required else (None if s.default is NO_DEFAULT else s.default))
        for s in read_class(spec, lenient).settings.values()
    }
    config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, protected_namespaces=())
    return create_model(spec.rpartition(":")[2], __config__=config, **fields)


def _init(name: str, classes: dict[str, ast.ClassDef], tree: ast.Module, path: Path) -> ast.FunctionDef | None:
    """The ``__init__`` of a class, or that of the base that it inherits it from; None where no source has one."""
    seen: set[str] = set()
    while name in classes and name not in seen:
        seen.add(name)
        node = classes[name]
        own = next((f for f in node.body if isinstance(f, ast.FunctionDef) and f.name == "__init__"), None)
        if own or not node.bases or not isinstance(node.bases[0], ast.Name):
            return own
        name = node.bases[0].id
    for statement in tree.body:
        if isinstance(statement, ast.ImportFrom) and statement.module and not statement.level:
            original = next((a.name for a in statement.names if (a.asname or a.name) == name), None)
            if original and statement.module.startswith("potstill."):
                base = find_module(statement.module)
                base_tree = tree_of(base)
                return _init(
                    original, {n.name: n for n in base_tree.body if isinstance(n, ast.ClassDef)}, base_tree, base
                )
    return None


def _read_init(source: Source, init: ast.FunctionDef, constants: dict[str, Any], lenient: bool) -> Source:
    """Sort the arguments of ``__init__`` into settings, facts and what no configuration can give."""
    spread = init.args.posonlyargs + init.args.args
    defaults = [None] * (len(spread) - len(init.args.defaults)) + list(init.args.defaults)
    pairs = [*zip(spread, defaults, strict=True), *zip(init.args.kwonlyargs, init.args.kw_defaults, strict=True)][1:]
    settings, unfit = {}, {}
    for arg, default in ((a, d) for a, d in pairs if not is_fact(a.arg)):
        written = ast.unparse(arg.annotation) if arg.annotation else ""
        try:
            kind = _type(arg.annotation) if arg.annotation else Any
        except _AnnotationError:
            if not lenient and default is None:
                raise ConfigError(
                    f"the setting {arg.arg!r} of {source.spec} has a type that no configuration can give: {written}",
                    hint="float, int, bool, str, Literal, tuple[float, ...] or a range of potstill.ranges",
                ) from None
            if not lenient:
                unfit[arg.arg] = written
                continue
            kind = Any
        value = NO_DEFAULT if default is None else literal(default, constants)
        settings[arg.arg] = Setting(arg.arg, kind, written, value, default is None)
    facts = tuple(a.arg for a, _ in pairs if is_fact(a.arg))
    return dataclasses.replace(source, settings=settings, facts=facts, unfit=unfit)


class _AnnotationError(Exception):
    """An annotation that is not one of docs/design.md."""


def _type(node: ast.expr) -> Any:
    """The type that an annotation means. Read, never evaluated: an annotation can hold any code."""
    match node:
        case ast.Constant(None):
            return None
        case ast.Constant(str() as quoted):
            try:
                return _type(ast.parse(quoted, mode="eval").body)
            except SyntaxError:
                raise _AnnotationError from None
        case ast.Name(name) | ast.Attribute(attr=name) if name in TYPES:
            return TYPES[name]
        case ast.BinOp(left, ast.BitOr(), right):
            return typing.Union[_type(left), _type(right)]  # noqa: UP007
        case ast.Subscript(value, index):
            return _generic(node, value, index)
        case ast.Call(ast.Name("Gt" | "Ge" | "Lt" | "Le" as name), [bound], []):
            return TYPES[name](literal(bound, {}))
    raise _AnnotationError


def _generic(node: ast.expr, value: ast.expr, index: ast.expr) -> Any:
    outer = _type(value)
    parts = list(index.elts) if isinstance(index, ast.Tuple) else [index]
    if outer is typing.Literal:
        return typing.Literal[tuple(literal(p, {}) for p in parts)]
    inner = tuple(... if isinstance(p, ast.Constant) and p.value is ... else _type(p) for p in parts)
    try:
        made = outer[inner if len(inner) > 1 else inner[0]]
    except TypeError:
        raise _AnnotationError from None
    return Annotated[made, Strict(False)] if outer is tuple else made


@cache
def fields_model(spec: str) -> type[BaseModel]:
    """A model that checks the fields of the dataclass ``"package.module:Class"``; all are optional, and an annotation that is
    not understood is Any."""
    module, _, name = spec.rpartition(":")
    body = tree_of(find_module(module)).body
    cls = next(node for node in body if isinstance(node, ast.ClassDef) and node.name == name)
    fields: dict[str, Any] = {}
    for node in cls.body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            written = node.annotation
            try:
                kind = _type(_alias(written.id, body) or written if isinstance(written, ast.Name) else written)
            except _AnnotationError:
                kind = Any
            fields[node.target.id] = (kind, None)
    config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, protected_namespaces=())
    return create_model(name, __config__=config, **fields)


def _alias(name: str, body: list[ast.stmt]) -> ast.expr | None:
    """What ``Name = Literal[...]`` says, here or where it is imported from."""
    for node in body:
        if isinstance(node, ast.Assign) and any(isinstance(t, ast.Name) and t.id == name for t in node.targets):
            return node.value
        if isinstance(node, ast.ImportFrom) and (module := node.module or "").startswith("potstill."):
            for original in (a.name for a in node.names if (a.asname or a.name) == name):
                return _alias(original, tree_of(find_module(module)).body)
    return None
