"""All that is wrong with a configuration, told at once, in the words of the configuration."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from pydantic import ValidationError

from potstill.config.yaml import Where
from potstill.errors import ConfigError, did_you_mean

SYNONYMS = {
    "learning_rate": "lr", "learningrate": "lr", "eta": "lr",
    "tau": "temperature", "T": "temperature", "t": "temperature", "temp": "temperature",
    "bs": "batch", "batch_size": "batch", "batchsize": "batch", "train_batch_size": "batch",
    "alpha": "weight", "lambda": "weight", "coef": "weight", "loss_weight": "weight", "w": "weight", "beta": "weight",
    "wd": "weight_decay", "l2": "weight_decay", "decay": "weight_decay",
    "optimizer": "optim", "optimiser": "optim", "opt": "optim",
    "scheduler": "schedule", "lr_scheduler": "schedule", "lr_schedule": "schedule", "sched": "schedule",
    "loss": "losses", "criterion": "losses", "distiller": "method", "algorithm": "method",
    "num_epochs": "epochs", "n_epochs": "epochs", "max_epochs": "epochs", "random_seed": "seed", "num_seeds": "seeds",
    "num_workers": "workers", "dataset": "data", "path": "source", "root": "source", "dir": "source",
    "val_split": "val", "validation": "val", "image_size": "size", "img_size": "size", "resolution": "size",
    "arch": "model", "architecture": "model", "backbone": "model", "net": "model", "network": "model",
    "checkpoint": "weights", "ckpt": "weights", "pretrained": "weights", "params": "kwargs", "model_kwargs": "kwargs",
    "grad_clip": "clip", "clip_grad": "clip", "max_grad_norm": "clip", "gradient_clip_val": "clip",
    "accumulation": "accumulate", "grad_accumulation": "accumulate", "accumulation_steps": "accumulate",
    "amp": "precision", "fp16": "precision", "dtype": "precision", "gpu": "device", "gpus": "devices",
    "patience": "early_stop", "early_stopping": "early_stop", "output": "out", "output_dir": "out", "save_dir": "out",
    "warmup_epochs": "warmup", "color": "colour", "layers": "at", "layer": "at", "spot": "at", "spots": "at",
    "type": "use", "class": "use", "augmentation": "augment", "aug": "augment", "transforms": "augment",
    "logger": "track", "loggers": "track", "tracker": "track", "baseline": "control", "steps": "milestones",
}  # fmt: skip
"""What other tools call a setting, and its name here; difflib alone cannot get from learning_rate to lr."""

WORDS = {
    "int_type": "a whole number", "int_parsing": "a whole number", "int_from_float": "a whole number",
    "float_type": "a number", "float_parsing": "a number", "bool_type": "true or false", "bool_parsing": "true or false",
    "string_type": "text", "finite_number": "a finite number", "none_required": "null",
    "dict_type": "a mapping", "model_type": "a mapping", "model_attributes_type": "a mapping", "mapping_type": "a mapping",
    "list_type": "a list", "tuple_type": "a list",
    "greater_than": "greater than {gt:g}", "greater_than_equal": "at least {ge:g}", "less_than": "less than {lt:g}",
    "less_than_equal": "at most {le:g}", "too_short": "a list of at least {min_length}", "too_long": "a list of {max_length}",
}  # fmt: skip
SHOWN = 16


class Problem(NamedTuple):
    """One fault: which setting, what is wrong with it, and what to do where that is not plain."""

    at: Where
    what: str
    hint: str | None = None

    @property
    def key(self) -> str:
        return ".".join(map(str, self.at))


class ConfigErrors(ConfigError):
    """The faults of a configuration, each with its place. Exit code 2.

    Attributes:
        problems: the faults.
        places: the place of each: ``"recipe.yaml:7:3"`` or ``"command line"``.
    """

    def __init__(self, problems: Sequence[Problem], places: Sequence[str]) -> None:
        self.problems, self.places = list(problems), list(places)
        lines = [
            f"{place}: {p.key}: {p.what}" if place else f"{p.key}: {p.what}"
            for p, place in zip(problems, places, strict=True)
        ]
        one = len(lines) == 1
        super().__init__(
            lines[0] if one else "\n  ".join([f"{len(lines)} problems in the configuration", *lines]),
            hint=self.problems[0].hint if one else None,
        )


def unknown_key(key: str, known: Iterable[str], elsewhere: Iterable[str] = ()) -> str:
    """``no such key. Did you mean 'lr'? Known: name, lr.``

    Args:
        key: what was written.
        known: the keys that this place has.
        elsewhere: whole names of the settings of other places: ``lr`` at the root is ``optim.lr``.
    """
    known, meant = list(known), SYNONYMS.get(key)
    same = next((name for name in elsewhere if name.rpartition(".")[2] in (key, meant)), None)
    if meant in known:
        hint = f" Did you mean {meant!r}?"
    elif same:
        hint = f" Did you mean {same!r}?"
    else:
        hint = "" if meant else did_you_mean(key, known)
    if not known:
        return f"no such key.{hint} There are no settings here."
    shown = f"Known: {', '.join(known)}." if len(known) <= SHOWN else "All: potstill show config."
    return f"no such key.{hint} {shown}"


def choice(got: Any, known: Iterable[Any]) -> str:
    """``must be one of a, b, got 'c'. Did you mean 'b'?``"""
    known = [str(k) for k in known]
    return f"must be one of {', '.join(known)}, got {show(got)}.{did_you_mean(str(got), known)}"


def show(value: Any) -> str:
    """A value as a message shows it: ``0``, ``'ten' (str)``; long ones are cut."""
    text = repr(value)
    text = text if len(text) <= 60 else f"{text[:57]}..."
    return (
        text if isinstance(value, int | float) and not isinstance(value, bool) else f"{text} ({type(value).__name__})"
    )


def translate(
    error: ValidationError, data: Any, known: Mapping[Where, Iterable[str]], elsewhere: Iterable[str] = ()
) -> list[Problem]:
    """What pydantic found, in the words of the configuration; one problem a setting.

    Args:
        error: what pydantic raised for ``data``.
        known: the keys of each mapping of the configuration, by its place.
    """
    found: dict[Where, list[tuple[bool, str]]] = {}
    for fault in error.errors(include_url=False):
        at = _path(fault["loc"], data, keep_last=fault["type"] == "missing")
        found.setdefault(at, []).append((fault["type"].endswith("_type"), _say(fault, at, known, elsewhere)))
    inner = {at[:i] for at in found for i in range(len(at))}
    return [
        Problem(at, _join(says)) for at, says in found.items() if at not in inner or not all(kind for kind, _ in says)
    ]


def _say(fault: Any, at: Where, known: Mapping[Where, Iterable[str]], elsewhere: Iterable[str]) -> str:
    kind, context, got = fault["type"], fault.get("ctx", {}), fault["input"]
    if kind == "extra_forbidden":
        return unknown_key(str(at[-1]), known.get(at[:-1], ()), elsewhere)
    if kind == "missing":
        flags = "--student, or --model of `potstill train`; see `potstill list models`"
        return f"is needed: a model ({flags})." if at == ("student",) else "is needed."
    if kind == "literal_error":
        expected = context["expected"].replace(" or ", ", ").replace("'", "").split(", ")
        return choice(got, expected)
    if kind == "dict_type" and at == ("losses",):
        return f"must be a mapping by name, {{kd: {{temperature: 2}}}}, got {show(got)}."
    if kind == "value_error":
        return f"{context['error']}, got {show(got)}."
    if kind in ("float_type", "float_parsing", "int_type") and str(got).lower().lstrip("+-") in ("nan", "inf"):
        return f"must be a finite number, got {show(got)}."
    if kind in WORDS:
        return f"must be {WORDS[kind].format(**context)}, got {show(got)}."
    return f"{fault['msg']}, got {show(got)}."


def _join(says: list[tuple[bool, str]]) -> str:
    """One sentence for the members of a union: what is wrong with the value where its type fits one of them, else the types."""
    fits = [say for of_type, say in says if not of_type]
    if fits or len(says) == 1:
        return (fits or [says[0][1]])[0]
    heads = dict.fromkeys(say.removeprefix("must be ").rpartition(", got ")[0] for _, say in says)
    return f"must be {' or '.join(heads)}, got {says[-1][1].rpartition(', got ')[2]}"


def _path(loc: Sequence[str | int], data: Any, keep_last: bool) -> Where:
    """The place in the data: pydantic's also names members of unions."""
    at: list[str | int] = []
    for i, part in enumerate(loc):
        if isinstance(data, Mapping) and (part in data or (keep_last and i == len(loc) - 1)):
            data = data.get(part)
        elif isinstance(data, list | tuple) and isinstance(part, int) and part < len(data):
            data = data[part]
        else:
            continue
        at.append(part)
    return tuple(at)
