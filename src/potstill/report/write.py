"""The report of a run, or the comparison of several, as files."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from potstill.errors import ConfigError, MachineError
from potstill.files import write_atomically
from potstill.report.read import read, read_all


def report(paths: str | Path | Sequence[str | Path], out: str | Path | None = None) -> Path:
    """Write the page of one run, or a page that compares several.

    The page is one self-contained file: it opens offline and loads nothing. Beside it, under the same name with the
    ending ``.json``, lie the numbers behind it. Both are written atomically. The same run gives the same bytes.

    Args:
        paths: a run directory or the folder of a compression, or several runs.
        out: the page to write; ``RUN/report.html`` for one run and ``compare.html`` for several by default.

    Returns:
        The page.

    Raises:
        ConfigError: no run was given, one twice, a path is no run directory, or ``out`` ends in ``.json``.
        MachineError: the page cannot be written.
    """
    paths = [paths] if isinstance(paths, str | Path) else list(paths)
    if len(paths) == 1 and (Path(paths[0]) / "chain.json").is_file():
        from potstill.report import compression

        numbers = compression.collect(Path(paths[0]))
        html, target = compression.page(numbers), Path(out or Path(paths[0]) / "report.html")
    elif len(paths) == 1:
        from potstill.report.numbers import collect
        from potstill.report.page import page

        run = read(paths[0])
        numbers = collect(run)
        html, target = page(run, numbers), Path(out or run.path / "report.html")
    else:
        from potstill.report.board import collect_rows, comparison

        runs = read_all(paths)
        numbers = collect_rows(runs)
        html, target = comparison(numbers), Path(out or "compare.html")
    if target.suffix == ".json":
        raise ConfigError(
            f"the page must not end in .json, got {out}: its numbers take that name", hint="--out page.html"
        )
    try:
        write_atomically(target.with_suffix(".json"), as_json(numbers).encode("utf-8", "replace"))
        write_atomically(target, html.encode("utf-8", "replace"))
    except OSError as e:
        why = f"the report cannot be written: {e.strerror or e}"
        raise MachineError(why, where=str(target), hint="potstill report RUN --out FILE.html") from None
    return target


def as_json(numbers: dict[str, Any]) -> str:
    """A line for each part: fast to write, and to find one's way in."""
    parts = (
        f"{json.dumps(k)}: {json.dumps(finite(x), ensure_ascii=False, allow_nan=False)}" for k, x in numbers.items()
    )
    return "{\n" + ",\n".join(parts) + "\n}\n"


def finite(tree: Any) -> Any:
    """The same tree with null for NaN and infinity, which JSON has not."""
    if isinstance(tree, dict):
        return {str(k): finite(x) for k, x in tree.items()}
    if isinstance(tree, list | tuple):
        return [finite(x) for x in tree]
    return None if isinstance(tree, float) and not math.isfinite(tree) else tree
