"""A strict reader of YAML: YAML 1.2 scalars, no tags, no duplicate keys, bounded; every value keeps its place."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from potstill.errors import ConfigError, RefusedError

MAX_BYTES = 1 << 20
MAX_NODES = 10_000
MAX_DEPTH = 32

Where = tuple[str | int, ...]
"""The way to a value: keys and list positions, from the root."""

CONSTANTS: dict[str, bool | None] = {"": None, "~": None, "null": None, "Null": None, "NULL": None}
CONSTANTS |= {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}
INT = re.compile(r"[-+]?[0-9]{1,300}|0o[0-7]{1,300}|0x[0-9a-fA-F]{1,300}")
FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
BREAK = re.compile("\r\n|[\r\n\x85\u2028\u2029]")


@dataclass
class Document:
    """What a file says, and where: ``places[("optim", "lr")]`` is ``"recipe.yaml:7:3"``, the place of the key."""

    name: str
    value: Any
    places: dict[Where, str] = field(default_factory=dict)


def scalar(text: str) -> Any:
    """The value of a plain scalar by the core schema of YAML 1.2: ``no`` is text, ``1e-3`` is a number."""
    if text in CONSTANTS:
        return CONSTANTS[text]
    if INT.fullmatch(text):
        return int(text, 0) if text[:2] in ("0o", "0x") else int(text)
    if FLOAT.fullmatch(text):
        return float(text.lower().replace(".inf", "inf").replace(".nan", "nan"))
    return text


def parse(text: str, name: str) -> Document:
    """Read a YAML document.

    Args:
        text: the YAML.
        name: the file's name, for messages.

    Raises:
        ConfigError: not YAML, or a key twice: says file, line and column, and shows the line.
        RefusedError: a tag (it could call code), or a document too large, too deep or with too many aliases.
    """
    if len(text) > MAX_BYTES:
        raise RefusedError(f"a configuration of more than {MAX_BYTES >> 20} MiB is not read", where=name)
    text = text.removeprefix("\ufeff")
    try:
        root = _Composer(text, name).get_single_node()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise _syntax(text, name, mark.line if mark else 0, mark.column if mark else 0, _plain(error)) from None
    except yaml.reader.ReaderError as error:
        before = BREAK.split(text[: error.position])
        character = f"the character U+{ord(text[error.position]):04X} is not allowed"
        raise _syntax(text, name, len(before) - 1, len(before[-1]), character) from None
    document = Document(name, None)
    if root is not None:
        document.value = _Builder(document).build(root, (), 0)
    return document


def read(path: str | Path, name: str | None = None) -> Document:
    """Read a YAML file in UTF-8, with or without a byte order mark; messages call it ``name``. Raises as :func:`parse` does."""
    name = name or str(path)
    try:
        with open(path, "rb") as file:
            content = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"the file cannot be read: {error.strerror or error}", where=name) from None
    try:
        return parse(content.decode("utf-8"), name)
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        column = error.start - (content.rfind(b"\n", 0, error.start) + 1) + 1
        raise ConfigError(
            f"not UTF-8: byte 0x{content[error.start]:02X}",
            where=f"{name}:{line}:{column}",
            hint="save the file as UTF-8",
        ) from None


def value(text: str, name: str = "command line") -> Any:
    """The value of ``key=value``: a plain scalar, or a list, mapping or quoted text in YAML's flow style.

    Other text stays as it is, so that ``data=folder:my #1`` loses nothing.
    """
    text = text.strip()
    return parse(text, name).value if text[:1] and text[0] in "[{\"'!&*" else scalar(text)


class _Composer(yaml.SafeLoader):
    """Makes nodes of text; refuses tags and too many nodes before anything is made of them."""

    def __init__(self, text: str, name: str) -> None:
        super().__init__(text)
        self.file, self.nodes, self.depth = name, 0, 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        event = self.peek_event()
        where = _place(self.file, event.start_mark)
        tag = getattr(event, "tag", None)
        if tag is not None:
            raise RefusedError(
                f"the tag {tag.replace('tag:yaml.org,2002:', '!!')!r} is refused: a configuration carries no code",
                where=where,
                hint="write plain values; a class of your own goes in `use: ./file.py:Class`",
            )
        self.nodes += 1
        self.depth += 1
        if self.nodes > MAX_NODES or self.depth > MAX_DEPTH:
            raise RefusedError(_too_big(), where=where)
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node


class _Builder:
    """Makes values of nodes; an alias counts as often as it is used."""

    def __init__(self, document: Document) -> None:
        self.document, self.nodes = document, 0

    def build(self, node: yaml.Node, at: Where, depth: int) -> Any:
        self.nodes += 1
        if self.nodes > MAX_NODES or depth > MAX_DEPTH:
            raise RefusedError(
                _too_big(),
                where=_place(self.document.name, node.start_mark),
                hint="aliases (*name) count as often as used",
            )
        if isinstance(node, yaml.ScalarNode):
            return node.value if node.style else scalar(node.value)
        if isinstance(node, yaml.SequenceNode):
            items = []
            for i, item in enumerate(node.value):
                self.document.places[(*at, i)] = _place(self.document.name, item.start_mark)
                items.append(self.build(item, (*at, i), depth + 1))
            return items
        mapping: dict[str, Any] = {}
        for key, child in node.value:
            place = _place(self.document.name, key.start_mark)
            if not isinstance(key, yaml.ScalarNode):
                raise ConfigError("a key must be plain text", where=place)
            if key.value in mapping:
                first = self.document.places[(*at, key.value)]
                raise ConfigError(
                    f"the key {key.value!r} is given twice; first at {first}", where=place, hint="keep one"
                )
            self.document.places[(*at, key.value)] = place
            mapping[key.value] = self.build(child, (*at, key.value), depth + 1)
        return mapping


def _place(name: str, mark: Any) -> str:
    return f"{name}:{mark.line + 1}:{mark.column + 1}"


def _too_big() -> str:
    return f"more than {MAX_NODES} values or {MAX_DEPTH} levels are not read"


def _plain(error: yaml.MarkedYAMLError) -> str:
    problem = error.problem or error.context or "not YAML"
    if "'\\t'" in problem:
        return "a tab: YAML is indented with spaces"
    return f"not YAML: {problem}"


def _syntax(text: str, name: str, line: int, column: int, what: str) -> ConfigError:
    """The error at a place, with the line and a caret below the column."""
    lines = BREAK.split(text)
    shown = lines[line] if line < len(lines) else ""
    start = max(0, column - 60)
    gutter = f"{line + 1} | "
    excerpt = "".join(c if c.isprintable() else "·" for c in shown[start : start + 100])
    caret = " " * (len(gutter) + 2 + column - start) + "^"
    return ConfigError(what, where=f"{name}:{line + 1}:{column + 1}", why=f"{gutter}{excerpt}\n{caret}")
