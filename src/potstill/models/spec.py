"""How a user names a net, taken apart. No torch here."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any, NamedTuple

from potstill.errors import ModelError, did_you_mean
from potstill.models.catalog import ALIASES, CATALOG, known

SOURCES = ("zoo", "timm", "hf", "torchvision")
FORMS = "zoo:NAME, timm:NAME, hf:REPO_OR_FOLDER, torchvision:NAME, package.module:NAME, FILE.py:NAME or a run's folder"

_NAME = r"(?P<name>[^\W\d]\w*(?:\.[^\W\d]\w*)*)"
_CALL = r"\s*(?P<call>\(.*\))?"


class Spec(NamedTuple):
    """A net's name, taken apart.

    Attributes:
        source: ``zoo``, ``timm``, ``hf``, ``torchvision``, ``file``, ``module`` or ``run``.
        place: the file, the module or the folder; empty for names of a library.
        name: the net, class or function there.
        kwargs: keyword arguments given in the call syntax.
    """

    source: str
    place: str
    name: str
    kwargs: dict[str, Any]

    @property
    def text(self) -> str:
        """The spec without its arguments, such as ``zoo:cnn``."""
        if self.source in SOURCES:
            return f"{self.source}:{self.name}"
        return self.place if self.source == "run" else f"{self.place}:{self.name}"


def parse(text: str) -> Spec:
    """Take a spec apart: ``zoo:cnn(widths=(8, 16))``, ``resnet20``, ``hf:microsoft/resnet-50``, ``my nets/net.py:Net`` ...

    Raises:
        ModelError: none of the forms, an unknown net of the zoo, or arguments that are no literals.
    """
    text = text.strip()
    if m := re.fullmatch(
        r"hf:\s*(?P<name>\S.*)", text, re.DOTALL
    ):  # a folder's name may hold anything, so it takes no call
        return Spec("hf", "", m["name"], {})
    if m := re.fullmatch(rf"(?P<source>{'|'.join(SOURCES)}):(?P<name>[^()]+?){_CALL}", text, re.DOTALL):
        return Spec(m["source"], "", m["name"], arguments(m["call"], text))
    if m := re.fullmatch(rf"(?P<place>.+?\.py):{_NAME}{_CALL}", text, re.DOTALL):
        return Spec("file", m["place"], m["name"], arguments(m["call"], text))
    if (m := re.fullmatch(rf"(?P<name>[\w-]+){_CALL}", text, re.DOTALL)) and known(m["name"]):
        return Spec("zoo", "", m["name"], arguments(m["call"], text))
    if m := re.fullmatch(rf"(?P<place>[^\W\d]\w*(?:\.\w+)*):{_NAME}{_CALL}", text, re.DOTALL):
        return Spec("module", m["place"], m["name"], arguments(m["call"], text))
    if text.endswith(".py"):
        raise ModelError(
            f"{text} is a file: which net in it?", hint=f"{text}:NAME, with the name of a class or a function"
        )
    if text and ("/" in text or "\\" in text or text[0] in "~." or Path(text).exists()):
        return Spec("run", text, "", {})
    raise ModelError(
        f"no net is called {text!r}.{did_you_mean(text, [*CATALOG, *ALIASES])} Expected {FORMS}.",
        hint="potstill list models",
    )


def arguments(call: str | None, text: str) -> dict[str, Any]:
    """The keyword arguments in ``(widths=(8, 16), bias=True)``: literals only, nothing is evaluated."""
    if not call:
        return {}
    try:
        node = ast.parse(f"f{call}", mode="eval").body
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name) or node.args:
            raise ValueError("only NAME=VALUE")
        names = [k.arg for k in node.keywords]
        if None in names or len({*names}) < len(names):
            raise ValueError("each NAME once, and no **")
        return {str(k.arg): ast.literal_eval(k.value) for k in node.keywords}
    except (SyntaxError, ValueError, TypeError, MemoryError, RecursionError) as e:
        raise ModelError(
            f"the arguments in {text[:200]!r} must be names and literal values ({str(e).splitlines()[0]})",
            hint="zoo:cnn(widths=(8, 16))",
        ) from e
