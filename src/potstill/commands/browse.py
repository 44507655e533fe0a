"""Commands that show what there is: list, show, cp. No torch."""

import dataclasses
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from potstill import methods
from potstill.commands import options as o
from potstill.commands.screen import SCREEN, columns, number
from potstill.commands.tex import plain
from potstill.config import find, json_schema, recipes
from potstill.config.check import CE, keys
from potstill.config.introspect import Source, read_class
from potstill.config.merge import section_of
from potstill.config.schema import Config
from potstill.config.sections import SCHEDULES, Section
from potstill.config.source import NO_DEFAULT, constants_of, find_module, has_parameters, tree_of
from potstill.errors import ConfigError, did_you_mean

SECTIONS = ("config", *(name for name in Config.model_fields if section_of(Config, name)[0]))
Row = dict[str, Any]


def list_(
    what: Annotated[
        str, typer.Argument(metavar="{methods,models,data,recipes}", help="What to list.", show_default=False)
    ] = "",
    json: o.Json = False,
    quiet: o.Quiet = False,
    verbose: o.Verbose = False,
) -> None:
    """List what there is.

    \b
      potstill list methods
      potstill list models --json
    """
    SCREEN.set(quiet, verbose, json)
    if what not in LISTS:
        raise ConfigError(
            f"list one of {', '.join(LISTS)}; got {what!r}.{did_you_mean(what, LISTS)}", hint="potstill list methods"
        )
    rows = LISTS[what]()
    shown = [[_word(value) if key != "year" else value for key, value in row.items()] for row in rows]
    SCREEN.result(columns(shown, [head.replace("_", " ") for head in rows[0]] if rows else [what]), rows)
    if what == "methods":
        SCREEN.note("step: against that of kd; parameters: the method's own, at resnet32x4 to resnet8x4 (docs/methods)")
    if rows and "name" in rows[0]:
        SCREEN.note(f"more: potstill show {rows[0]['name']}")


def show(
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="A method, model or recipe; or config, optim, ...", show_default=False)
    ],
    json: o.Json = False,
    quiet: o.Quiet = False,
    verbose: o.Verbose = False,
) -> None:
    """Everything about a method, a model, a recipe, or the settings of a configuration.

    \b
      potstill show kd
      potstill show digits > mine.yaml
      potstill show config              (also: potstill show optim, show data ...)
    """
    SCREEN.set(quiet, verbose, json)
    from potstill.models.catalog import CATALOG

    model = name.removeprefix("zoo:")
    if name in methods.PRESETS or name == "ce":
        SCREEN.result(*_method(name))
    elif name in recipes():
        SCREEN.result(recipes()[name].read_text("utf-8"), {"name": name, "path": str(recipes()[name])})
    elif model in CATALOG:
        entry = CATALOG[model]._asdict()
        rows = [(k, number(v) if isinstance(v, int) else v) for k, v in entry.items()]
        line = f"\n\npotstill train --data digits --model zoo:{model}"
        SCREEN.result(f"zoo:{model}\n\n{columns(rows)}{line}", {"name": model, **entry})
    elif name in SECTIONS:
        SCREEN.result(_section(name), json_schema())
    else:
        known = [*methods.PRESETS, *recipes(), *CATALOG, *SECTIONS]
        raise ConfigError(
            f"nothing is called {name!r}.{did_you_mean(name, known)}",
            hint="potstill list methods, models, data or recipes",
        )


def cp(
    recipe: Annotated[
        str, typer.Argument(metavar="RECIPE", help="A name of `potstill list recipes`.", show_default=False)
    ],
    to: Annotated[str, typer.Argument(metavar="TO", help="A folder, or the new file.")] = ".",
    quiet: o.Quiet = False,
    verbose: o.Verbose = False,
) -> None:
    """Copy a recipe, to make it your own. Nothing is ever overwritten.

    \b
      potstill cp digits .
    """
    SCREEN.set(quiet, verbose)
    source, target = find(recipe), Path(to).expanduser()
    target = target / source.name if target.is_dir() or to.endswith("/") else target
    try:
        with open(target, "xb") as new, open(source, "rb") as old:
            shutil.copyfileobj(old, new)
    except FileExistsError:
        raise ConfigError(
            f"{target} exists, and nothing is overwritten", hint=f"potstill cp {recipe} OTHER.yaml"
        ) from None
    except OSError as error:
        raise ConfigError(f"cannot write {target}: {error.strerror}") from None
    SCREEN.result(str(target))


def method_rows() -> list[Row]:
    """Every method: what it compares, what it costs (measured at resnet32x4 to resnet8x4), when to use it."""
    cost = methods.measured()
    return [
        {
            "name": p.name,
            "year": p.year,
            "compares": p.compares,
            "parameters": cost[p.name]["parameters"] if p.name in cost else has_parameters(p.loss),
            "step": f"{cost[p.name]['step']:.2f}" if p.name in cost else "",
            "cacheable": p.cacheable,
            "use_when": p.use_when,
        }
        for p in methods.PRESETS.values()
    ]


def model_rows() -> list[Row]:
    """Every net of the zoo, and how nets from elsewhere are named."""
    from potstill.models.catalog import CATALOG

    zoo = [
        {"name": f"zoo:{k}", "parameters": e.parameters, "multiply-adds": e.macs, "lr": e.lr, "note": e.note}
        for k, e in CATALOG.items()
    ]
    elsewhere = {
        "hf:REPO": "an image classifier of transformers, trained",
        "timm:NAME": "a net of timm",
        "torchvision:NAME": "a net of torchvision",
        "FILE.py:NAME": "a class or function of your own; module:name too",
        "RUN": "the student of a run directory",
    }
    return zoo + [{"name": k, "parameters": "", "multiply-adds": "", "lr": "", "note": v} for k, v in elsewhere.items()]


def data_rows() -> list[Row]:
    """Every source of data; read from the source text, because the module itself is slow to import."""
    sources = dict(constants_of(tree_of(find_module("potstill.data.sources"))))["SOURCES"]
    return [{"source": name, "what": what} for name, what in sources.items()]


def recipe_rows() -> list[Row]:
    """Every recipe, with what its first lines say."""
    rows = []
    for name, path in recipes().items():
        lines = [line.lstrip("# ").rstrip() for line in path.read_text("utf-8").splitlines() if line.startswith("#")]
        facts = {k.strip().lower(): v.strip() for k, _, v in (line.partition(":") for line in lines[1:]) if v}
        rows.append(
            {"name": name, "time": facts.get("time", ""), "what": lines[0], "expected": facts.get("expected", "")}
        )
    return rows


LISTS: dict[str, Callable[[], list[Row]]] = {
    "methods": method_rows,
    "models": model_rows,
    "data": data_rows,
    "recipes": recipe_rows,
}


def _word(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "-"
    return number(value) if isinstance(value, int) else str(value)


def _method(name: str) -> tuple[str, Row]:
    """The page of a method, and the same as data."""
    preset = methods.PRESETS.get(name)
    source = read_class(preset.loss if preset else CE)
    first, _, rest = plain(source.doc).partition("\n")
    rows = [(f"losses.{name}.{s.name}", s.written, _default(s.default)) for s in source.settings.values()]
    parts = [
        f"{name}   {first}",
        rest.strip(),
        "Settings\n" + _indent(columns(rows, ("key", "type", "default"))) if rows else "",
    ]
    facts: Row = {"name": name, "loss": source.spec, "doc": source.doc, "settings": _settings(source)}
    if preset:
        facts |= {
            k: dict(v) if k == "settings" else v for k, v in dataclasses.asdict(preset).items() if k != "settings"
        }
        facts["published_settings"], facts["parameters"] = dict(preset.settings), has_parameters(preset.loss)
        facts["measured"] = methods.measured().get(name)
        parts.append("As published\n" + _indent(columns(published(preset))))
        parts.append(
            f"Try\n  potstill distill --method {name} --data digits --teacher zoo:resnet32x4 --student zoo:resnet8x4"
        )
    return "\n\n".join(part for part in parts if part), facts


def published(p: methods.Preset) -> list[tuple[str, Any]]:
    """What a preset says of its method, line by line."""
    cost = methods.measured().get(p.name)
    learned = "yes, thrown away after the training" if has_parameters(p.loss) else "none of its own"
    rows = [
        (
            "weight",
            f"{_weight(p.weight)}; cross-entropy {p.ce:g} alone"
            + (f"; KD {_weight(p.kd)} in {p.name}+kd" if p.name != "kd" else ""),
        ),
        ("source", p.weight_source),
        ("before", f"{p.before} ({p.before.source}); before=false: none" if p.before else ""),
        *(
            ("beside", ", ".join([name, *(f"{k} {_weight(v)}" for k, v in entry.items())]))
            for name, entry in p.beside.items()
        ),
        ("spots", p.at),
        *(("setting", f"{k} = {v}") for k, v in p.settings.items()),
        ("year", p.year),
        ("compares", p.compares),
        ("parameters", learned),
        ("cost", f"a step takes {cost['step']:.2f} times that of kd (resnet32x4 to resnet8x4)" if cost else ""),
        ("cacheable", "yes" if p.cacheable else "no"),
        ("use when", p.use_when),
        ("notes", p.notes),
    ]
    return [(k, v) for k, v in rows if v != ""]


def _weight(weight: float | Mapping[str, Any]) -> str:
    """``0.9``, or ``from 0 to 5, end 0.0833`` of a schedule."""
    if not isinstance(weight, Mapping):
        return f"{weight:g}"
    more = [f", {k} {v if isinstance(v, str) else f'{v:g}'}" for k, v in weight.items() if k not in ("from", "to")]
    return f"from {weight['from']:g} to {weight['to']:g}{''.join(more)}"


def _settings(source: Source) -> list[Row]:
    return [
        {
            "name": s.name,
            "type": s.written,
            "default": None if s.default is NO_DEFAULT else s.default,
            "required": s.required,
        }
        for s in source.settings.values()
    ]


def _default(value: Any) -> str:
    return (
        ""
        if value is NO_DEFAULT
        else "null"
        if value is None
        else str(list(value) if isinstance(value, tuple) else value)
    )


def _indent(text: str) -> str:
    return "\n".join(f"  {line}" for line in text.splitlines())


def _section(name: str) -> str:
    """The settings of a section of the configuration, or of all sections: keys, types, defaults, help."""
    rows = [row for row in setting_rows() if name == "config" or row[0].split(".")[0] == name]
    text = columns(rows, ("key", "default", "what"))
    if name in ("config", "schedule"):
        text += "\n\nschedules: " + "; ".join(f"{k} ({', '.join(v)})" if v else k for k, v in SCHEDULES.items())
    if name in ("config", "losses"):
        text += "\n\nlosses.NAME.SETTING: the settings of a loss are shown by `potstill show METHOD`"
    return text


def setting_rows(model: type[Section] = Config, at: str = "") -> list[tuple[str, str, str]]:
    """``(key, default, help)`` of every setting."""
    rows = []
    for name, field in model.model_fields.items():
        section, many, _ = section_of(model, name)
        key = f"{at}{field.alias or name}" + (".NAME" if many and section else "")
        if section:
            rows += [(key, "", field.description or "")] if section.short else []
            rows += setting_rows(section, f"{key}.")
        else:
            default = "" if field.is_required() else _default(field.get_default(call_default_factory=True))
            rows.append((key, default.lower() if default in ("True", "False") else default, field.description or ""))
    return rows


__all__ = ["LISTS", "cp", "keys", "list_", "plain", "setting_rows", "show"]
