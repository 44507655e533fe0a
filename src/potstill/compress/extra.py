"""Packages of the extra ``edge``: imported when they are needed, and missed with a clear word."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator
from typing import Any

from potstill.extras import optional

EXTRAS = {"executorch": "mobile"}
"""The extra that brings a package, where that is not ``edge``."""


def need(name: str) -> Any:
    """The module of that name.

    Raises:
        MachineError: its package is not installed, or is broken; names the extra that brings it.
    """
    with quietly():
        return optional(name, EXTRAS.get(name.partition(".")[0], "edge"))


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """Without what exporters print and warn about their own insides."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)
