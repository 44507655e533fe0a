"""The pages of the methods, from docstrings, presets and measured results.

    python docs/generate.py            # writes docs/methods/*.md and src/potstill/methods/measured.json
    python docs/generate.py --check    # says which are out of date, and fails

Reads source text, presets and benchmarks/results/*.jsonl; imports no torch.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from potstill.commands.browse import published
from potstill.config.introspect import read_class
from potstill.config.source import NO_DEFAULT
from potstill.methods import PRESETS
from potstill.methods.base import Preset

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
MEASURED = ROOT / "src" / "potstill" / "methods" / "measured.json"
PAIR = "resnet32x4-resnet8x4"  # what `potstill list methods` shows
BLOCK = re.compile(r"^\.\. math::[ ]*((?:.|\n(?=[ \t]+\S|[ \t]*\n[ \t]))*)", re.MULTILINE)
SECTIONS = ("Args", "Shape", "Raises", "Paper", "Differs from the authors' code", "Returns")


def lines_of(name: str) -> list[dict[str, Any]]:
    path = RESULTS / f"{name}.jsonl"
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()] if path.exists() else []


def costs() -> dict[str, dict[str, dict[str, Any]]]:
    """The newest measurement of each loss, by its name and the pair of nets."""
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for row in lines_of("losses"):
        found.setdefault(row["loss"], {})[row["pair"]] = row
    return found


def measured(found: dict[str, dict[str, dict[str, Any]]]) -> str:
    """What `potstill list methods` shows, as JSON: the step relative to that of KD, and the method's own parameters."""
    shown = {
        name: {"step": round(by_pair[PAIR]["step_ratio"], 2), "parameters": by_pair[PAIR]["parameters"]}
        for name, by_pair in sorted(found.items())
        if PAIR in by_pair
    }
    return json.dumps({"pair": PAIR, "batch": 64, "methods": shown}, indent=1) + "\n"


def markdown(doc: str) -> str:
    """A docstring of ours as Markdown with formulas for MathJax."""
    doc = BLOCK.sub(lambda m: "\n$$\n" + re.sub(r"\n[ \t]+", "\n", m[1].strip()) + "\n$$\n", doc)
    doc = re.sub(r":math:`([^`]+)`", r"$\1$", doc)
    doc = re.sub(r":\w+:`~?([^`]+)`", lambda m: f"`{m[1].rpartition('.')[2]}`", doc).replace("``", "`")
    out, items = [], False
    for line in doc.splitlines():
        head, colon, rest = line.partition(":")
        if colon and head in SECTIONS:
            items = not rest.strip()
            out += ["", f"**{head}**: {rest.strip()}"] if rest.strip() else ["", f"**{head}**", ""]
        elif items and re.match(r" {4}\S", line):
            name, _, what = line.strip().partition(":")
            out.append(f"* `{name}`: {what.strip()}")
        elif items and line.startswith(" " * 8):
            out.append("  " + line.strip())
        else:
            items = items and not line.strip()
            out.append(line)
    return re.sub(r"\n{3,}", "\n\n", "\n".join(out)).strip()


def rows(heads: Sequence[str], body: Iterable[Sequence[Any]]) -> str:
    """A table of Markdown."""
    lines = [heads, ["---"] * len(heads), *body]
    return "\n".join("| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |" for line in lines)


def cost_table(by_pair: dict[str, dict[str, Any]]) -> str:
    """What the loss costs at the shapes of two pairs."""
    heads = (
        "pair",
        "loss, ms",
        "reference form, ms",
        "times faster",
        "peak, MB",
        "reference, MB",
        "step against KD",
        "parameters",
    )

    def number(row: dict[str, Any], key: str) -> str:
        value = row.get(key)
        return "" if value is None else f"{value:,.0f}" if value >= 100 else f"{value:.3g}"

    return rows(
        heads,
        (
            (
                pair,
                number(row, "ms"),
                number(row, "reference_ms"),
                number(row, "speedup"),
                number(row, "peak_mb"),
                number(row, "reference_peak_mb"),
                f"{row['step_ratio']:.2f}",
                f"{row['parameters']:,}",
            )
            for pair, row in sorted(by_pair.items())
        ),
    )


def accuracy(name: str) -> str:
    """What the method brought in the table of all methods, where it has been trained."""
    got = [r for r in lines_of("methods_table") if r["method"] in (name, f"{name}+kd") and "top1" in r]
    if not got:
        return ""
    body = []
    for method in dict.fromkeys(r["method"] for r in got):
        values = [100 * r["top1"] for r in got if r["method"] == method]
        spread = (sum((v - sum(values) / len(values)) ** 2 for v in values) / max(len(values) - 1, 1)) ** 0.5
        body.append(
            (method, f"{sum(values) / len(values):.2f}" + (f" ± {spread:.2f}" if len(values) > 1 else ""), len(values))
        )
    return (
        "## Measured on CIFAR-100, a short budget\n\n"
        + rows(("method", "test top-1", "seeds"), body)
        + "\n\nThe budget, the student alone and what this does not show: `benchmarks/README.md`.\n"
    )


def page(p: Preset, by_pair: dict[str, dict[str, Any]]) -> str:
    """The page of a method."""
    source = read_class(p.loss)
    first, _, rest = source.doc.partition("\n")
    settings = [
        (f"`losses.{p.name}.{s.name}`", f"`{s.written}`", "" if s.default is NO_DEFAULT else f"`{s.default}`")
        for s in source.settings.values()
    ]
    parts = [
        f"# {p.name}",
        f"*{first}*",
        markdown(rest),
        "## Settings\n\n" + rows(("key", "type", "default"), settings) if settings else "",
        "## As published\n\n" + rows(("", ""), published(p)),
        "## Cost\n\nForward and backward of the loss with its adapters, batch 64, one thread, CPU time; the reference form "
        "is the straightforward one of the field (`benchmarks/losses.py`).\n\n" + cost_table(by_pair)
        if by_pair
        else "",
        accuracy(p.name),
        f"## Try\n\n    potstill distill --method {p.name} --data digits --teacher zoo:resnet32x4 --student zoo:resnet8x4",
        "<!-- made by docs/generate.py: change the docstring or the preset, not this page -->",
    ]
    return "\n\n".join(part.strip() for part in parts if part) + "\n"


def index(found: dict[str, dict[str, dict[str, Any]]]) -> str:
    """The list of all methods."""

    def line(p: Preset) -> tuple[Any, ...]:
        cost = found.get(p.name, {}).get(PAIR)
        step = f"{cost['step_ratio']:.2f}" if cost else ""
        return (
            f"[{p.name}]({p.name}.md)",
            p.year,
            p.compares,
            step,
            f"{cost['parameters']:,}" if cost else "",
            p.use_when,
        )

    heads = ("method", "year", "compares", "step against KD", "parameters", "use when")
    return (
        "# Methods\n\nEvery method alone (`--method NAME`) or joined (`NAME+kd`). Cost and parameters are measured at "
        f"{PAIR}, batch 64.\n\n" + rows(heads, (line(p) for p in PRESETS.values())) + "\n"
    )


def pages() -> dict[Path, Callable[[], str]]:
    found = costs()
    home = ROOT / "docs" / "methods"
    made: dict[Path, Callable[[], str]] = {
        MEASURED: lambda: measured(found),
        home / "index.md": lambda: index(found),
    }
    for name, p in PRESETS.items():
        made[home / f"{name}.md"] = lambda p=p, name=name: page(p, found.get(name, {}))  # type: ignore[misc]
    return made


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--check", action="store_true")
    check = parser.parse_args().check
    stale = [path for path, make in pages().items() if not path.exists() or path.read_text("utf-8") != make()]
    for path in stale:
        if not check:
            path.parent.mkdir(exist_ok=True)
            path.write_text(pages()[path](), "utf-8")
        print(f"{'out of date' if check else 'wrote'}: {path.relative_to(ROOT)}")
    if check and stale:
        print("run: python docs/generate.py")
    return int(check and bool(stale))


if __name__ == "__main__":
    sys.exit(main())
