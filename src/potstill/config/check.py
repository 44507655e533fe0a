"""From a tree of settings to a :class:`Config`, or to all that is wrong with it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError, create_model

from potstill import methods
from potstill.config import torch_names
from potstill.config.introspect import read_class, settings_model
from potstill.config.merge import Tree, section_of
from potstill.config.problems import Problem, translate
from potstill.config.schema import Config
from potstill.config.sections import SCHEDULES, LossConfig, OptimConfig, ScheduleConfig, Section
from potstill.config.source import NO_DEFAULT
from potstill.config.stages import problems_of
from potstill.config.yaml import Where
from potstill.errors import ConfigError, did_you_mean
from potstill.methods.facts import is_fact

CE = "potstill.losses.ce:CE"
OURS = {"params", "optimizer", "last_epoch"}
"""Arguments of torch's classes that the engine gives."""
WHOLE = {"adafactor", "muon"}
"""Optimizers that do not go number by number."""


def loss_class(use: str) -> str:
    """The class of ``use``: ``"potstill.losses.kd:KD"`` for ``"kd"``; what has a colon names a class itself.

    Raises:
        ConfigError: no such method.
    """
    if ":" in use:
        return use
    if use == "ce":
        return CE
    if use not in methods.PRESETS:
        raise ConfigError(f"no such method.{did_you_mean(use, ['ce', *methods.PRESETS])} All: potstill list methods.")
    return methods.PRESETS[use].loss


def check(tree: Tree, problems: list[Problem]) -> Config | None:
    """Fill in the defaults that depend on other settings, and validate everything.

    Args:
        tree: completed in place: afterwards it says every setting of every loss.
        problems: what is wrong already; what is found here is added.

    Returns:
        the configuration; None where there are problems.
    """
    known = keys()
    values = tree.values
    _optimizer_defaults(tree)
    losses = values.get("losses")
    for name, entry in losses.items() if isinstance(losses, dict) else ():
        if isinstance(entry, dict):
            problems += _loss(tree, name, entry, known)
    problems += _arguments(tree, "optim", OptimConfig, _optimizer_model, known)
    problems += _arguments(tree, "schedule", ScheduleConfig, _schedule_model, known)
    problems += problems_of(values.get("compress"))
    elsewhere = [".".join(map(str, (*at, key))) for at, names in known.items() if at for key in names]
    config = None
    try:
        config = Config.model_validate(values)
    except ValidationError as error:
        problems += translate(error, values, known, elsewhere)
    wrong_kind = any(problem.at == ("kind",) for problem in problems)
    if values["kind"] == "distill" and values.get("teacher") is None and not wrong_kind:
        problems.append(
            Problem(
                ("teacher",), "is needed: a trained model or a run directory.", "--teacher MODEL, or potstill train"
            )
        )
    if config and not problems:
        problems += _contradictions(config)
    return None if problems else config


def keys(model: type[Section] = Config, at: Where = ()) -> dict[Where, list[str]]:
    """The keys of every section, by its way."""
    found: dict[Where, list[str]] = {at: [field.alias or name for name, field in model.model_fields.items()]}
    for name in model.model_fields:
        section, many, _ = section_of(model, name)
        if section and not many:
            found |= keys(section, (*at, name))
    return found


def _loss(tree: Tree, name: str, entry: dict[str, Any], known: dict[Where, list[str]]) -> list[Problem]:
    """Complete the entry of a loss, and check the settings of its class."""
    at: Where = ("losses", name)
    tree.default((*at, "use"), name, "default")
    use = entry["use"]
    if not isinstance(use, str):
        return []
    try:
        source = read_class(loss_class(use))
        model = settings_model(source.spec)
    except ConfigError as error:
        return [Problem((*at, "use") if use != name else at, error.what, error.hint)]
    preset = methods.PRESETS.get(use)
    if preset:
        tree.default((*at, "before"), preset.before.settings() if preset.before else None, f"published for {use}")
        staged = isinstance(entry["before"], dict)
        for key, value in preset.before.settings().items() if staged and preset.before else ():
            tree.default((*at, "before", key), value, f"published for {use}")
        tree.default((*at, "weight"), preset.main_weight(staged), f"published for {use}")
        tree.default((*at, "at"), preset.at, f"published for {use}")
    for key, value in (preset.settings if preset else {}).items():
        tree.default((*at, key), list(value) if isinstance(value, tuple) else value, f"published for {use}")
    for key, setting in source.settings.items():
        if setting.default is not NO_DEFAULT:
            tree.default((*at, key), setting.default, f"default of {use}")
    fixed = list(LossConfig.model_fields)
    known[at] = [*fixed, *source.settings]
    known[(*at, "before")] = keys(section_of(LossConfig, "before")[0])[()]  # type: ignore[arg-type]
    known[(*at, "weight")] = keys(section_of(LossConfig, "weight")[0])[()]  # type: ignore[arg-type]
    own = {key: value for key, value in entry.items() if key not in fixed}
    facts = [
        Problem((*at, key), "is found by looking at the nets and the data: it cannot be set.")
        for key in own
        if is_fact(key)
    ]
    unfit = [key for key in own if key in source.unfit]
    facts += [
        Problem((*at, key), f"cannot be set in a configuration: its type is {source.unfit[key]}.") for key in unfit
    ]
    checked, problems = _settings(
        model, {k: v for k, v in own.items() if not is_fact(k) and k not in source.unfit}, at, known
    )
    entry.update(checked)
    return facts + problems


def _settings(
    model: type[BaseModel], given: dict[str, Any], at: Where, known: dict[Where, list[str]]
) -> tuple[dict[str, Any], list[Problem]]:
    elsewhere = [
        f"{'.'.join(map(str, way))}.{key}" for way, names in known.items() if way[:1] == at[:1] for key in names
    ]
    try:
        return model.model_validate(given).model_dump(exclude_unset=True), []
    except ValidationError as error:
        return {}, [Problem((*at, *p.at), p.what, p.hint) for p in translate(error, given, {(): known[at]}, elsewhere)]


def _arguments(
    tree: Tree, key: str, section: type[Section], model_of: Any, known: dict[Where, list[str]]
) -> list[Problem]:
    """Check the further arguments of the optimizer or the schedule against the class that it names."""
    entry = tree.values.get(key)
    name = entry.get("name", section.model_fields["name"].default) if isinstance(entry, dict) else None
    if not isinstance(entry, dict) or not isinstance(name, str):
        return []
    try:
        model, names = model_of(name)
    except ConfigError as error:
        return [Problem((key, "name"), error.what)]
    if model is None:
        return []
    fixed = list(section.model_fields)
    known[(key,)] = [*fixed, *(n for n in names if n not in fixed and n not in OURS)]
    checked, problems = _settings(model, {k: v for k, v in entry.items() if k not in fixed}, (key,), known)
    entry.update(checked)
    return problems


def _optimizer_model(name: str) -> tuple[type[BaseModel] | None, Iterable[str]]:
    classes = torch_names.optimizers()
    return _torch_model(name, classes, classes)


def _schedule_model(name: str) -> tuple[type[BaseModel] | None, Iterable[str]]:
    if name in SCHEDULES:
        fields: dict[str, Any] = {key: (kind, None) for key, kind in SCHEDULES[name].items()}
        config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)
        return create_model(name, __config__=config, **fields), fields
    classes = torch_names.schedulers()
    return _torch_model(name, classes, [*SCHEDULES, *classes])


def _torch_model(
    name: str, classes: dict[str, str], known: Iterable[str]
) -> tuple[type[BaseModel] | None, Iterable[str]]:
    found = torch_names.exact(name, classes)
    if found is None:
        if not classes:
            return None, ()
        raise ConfigError(f"no such name.{did_you_mean(name, known)} Known: {', '.join(known)}.")
    settings = read_class(classes[found], lenient=True).settings
    fields: dict[str, Any] = {s.name: (s.type, None) for s in settings.values() if s.name not in OURS}
    return create_model(found, __config__=ConfigDict(extra="forbid", arbitrary_types_allowed=True), **fields), settings


def _optimizer_defaults(tree: Tree) -> None:
    """For another optimizer than SGD: the defaults of its class in torch, which SGD's would not suit."""
    entry = tree.values.get("optim")
    name = entry.get("name") if isinstance(entry, dict) else None
    if not isinstance(name, str) or name.lower() == "sgd":
        return
    found = torch_names.exact(name, torch_names.optimizers())
    settings = read_class(torch_names.optimizers()[found], lenient=True).settings if found else {}
    for key, fallback in (("lr", 1e-3), ("weight_decay", 0.0), ("momentum", None)):
        value = settings[key].default if key in settings else fallback
        tree.default(
            ("optim", key), float(value) if isinstance(value, int | float) else fallback, f"default of {found or name}"
        )


def _contradictions(config: Config) -> list[Problem]:
    """Settings that are well formed each by itself, but not together."""
    problems = []
    if config.kind == "train" and config.teacher is not None:
        problems.append(Problem(("teacher",), "a net that is trained has no teacher.", "potstill distill"))
    if not any(loss.weight for loss in config.losses.values()):
        problems.append(
            Problem(("losses",), "no loss has a weight above 0: nothing would be learned.", "losses.ce.weight=1")
        )
    if config.spots and config.teacher and config.teacher.device:
        what = "does not go with spots: they run layers of both nets in turn."
        problems.append(Problem(("teacher", "device"), what, "teacher.device=null"))
    if config.compile and config.checkpoint_activations:
        what = "does not go with compile: a compiled net decides itself what it computes again."
        problems.append(Problem(("checkpoint_activations",), what, "one of the two"))
    if config.strategy == "fsdp":
        problems += _not_in_parts(config)
    if config.main_epochs < 1:
        taken = ", ".join(f"{name} {stage.epochs(config.epochs)}" for name, stage in config.before.items())
        what = f"leaves none for the main stage: {config.epochs}, of which the stages before it take {taken}."
        problems.append(Problem(("epochs",), what, f"epochs={2 * len(config.before)}, or losses.NAME.before=false"))
    if config.schedule.warmup and config.schedule.name not in SCHEDULES:
        what = f"goes with {', '.join(SCHEDULES)}, not with {config.schedule.name}."
        problems.append(Problem(("schedule", "warmup"), what))
    if config.schedule.warmup >= max(config.main_epochs, 1):
        what = f"must be shorter than the training, got {config.schedule.warmup:g} of {config.main_epochs} epochs."
        problems.append(Problem(("schedule", "warmup"), what))
    if config.data.labels and config.data.limit and config.data.labels > config.data.limit:
        what = f"must be at most data.limit, got {config.data.labels} of {config.data.limit} pictures."
        problems.append(Problem(("data", "labels"), what))
    for key, net in (("teacher", config.teacher), ("student", config.student)):
        if net and (net.mean is None) != (net.std is None):
            problems.append(Problem((key, "std" if net.mean else "mean"), "is needed: mean and std go together."))
        if net and net.std and min(net.std) <= 0:
            problems.append(Problem((key, "std"), f"must be greater than 0, got {list(net.std)}."))
    return problems


def _not_in_parts(config: Config) -> list[Problem]:
    """Settings that cannot be where each process holds a part of the nets."""
    optimizer, speed = config.optim.name.lower(), config.teacher.speed if config.teacher else "auto"
    whole = {
        ("spots",): (config.spots, "their layers run one by one, outside the nets.", "spots=null"),
        ("compile",): (config.compile, "nets are gathered while they run.", "compile=false"),
        ("precision",): (config.precision == "16", "its gradients are scaled in one process.", "precision=bf16"),
        ("teacher", "speed"): (speed in ("equal", "fast"), "it would be whole on each device.", "teacher.speed=auto"),
        ("optim", "fused"): (config.optim.args.get("fused"), "not all have a kernel for parts.", "optim.fused=false"),
        ("optim", "name"): (optimizer in WHOLE, f"{config.optim.name} looks at whole weights.", "optim=adamw"),
    }
    return [
        Problem(at, f"does not go with strategy=fsdp: {why}", f"{hint}, or strategy=ddp")
        for at, (there, why, hint) in whole.items()
        if there
    ]
