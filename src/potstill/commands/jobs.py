"""Commands that train, measure and resume."""

from pathlib import Path
from typing import Annotated, Any

import typer

from potstill.commands import options as o
from potstill.commands.screen import SCREEN
from potstill.config import Resolved, dump, resolve, to_yaml
from potstill.config.load import Kind
from potstill.errors import ConfigError


def distill(
    items: o.Items = None,
    data: o.Data = None,
    teacher: o.Teacher = None,
    teacher_speed: o.TeacherSpeed = None,
    student: o.Student = None,
    method: o.Method = None,
    spots: o.Spots = None,
    epochs: o.Epochs = None,
    batch: o.Batch = None,
    lr: o.Rate = None,
    seed: o.Seed = None,
    seeds: o.Seeds = None,
    together: o.Together = None,
    control: o.Control = None,
    device: o.Device = None,
    launcher: o.Launcher = None,
    precision: o.Precision = None,
    time_limit: o.TimeLimit = None,
    out: o.Out = None,
    name: o.Name = None,
    check: o.Check = False,
    print_config: o.Print = False,
    why: o.Why = False,
    json: o.Json = False,
    quiet: o.Quiet = False,
    verbose: o.Verbose = False,
) -> None:
    """Distil a teacher into a student, and compare with the student alone.

    Files are YAML; recipes: potstill list recipes; all settings: potstill show config.

    \b
      potstill distill --data folder:photos --teacher runs/teacher --student zoo:resnet8x4
      potstill distill digits losses.kd.temperature=2
      potstill distill my.yaml --method at+kd --seeds 3 --print-config=why
      potstill distill my.yaml --method crd+kd --spots adaptive
    """
    SCREEN.set(quiet, verbose, json)
    flags = o.settings(
        out,
        name,
        data=data,
        teacher=teacher,
        teacher_speed=teacher_speed,
        student=student,
        method=method,
        spots=spots,
        epochs=epochs,
        batch=batch,
        lr=lr,
        seed=seed,
        seeds=seeds,
        together=together,
        control=control,
        device=device,
        launcher=launcher,
        precision=precision,
        time_limit=time_limit,
    )
    job("distill", items or [], flags, check, print_config, why)


def train(
    items: o.Items = None,
    data: o.Data = None,
    model: o.Model = None,
    epochs: o.Epochs = None,
    batch: o.Batch = None,
    lr: o.Rate = None,
    seed: o.Seed = None,
    seeds: o.Seeds = None,
    device: o.Device = None,
    launcher: o.Launcher = None,
    precision: o.Precision = None,
    time_limit: o.TimeLimit = None,
    out: o.Out = None,
    name: o.Name = None,
    check: o.Check = False,
    print_config: o.Print = False,
    why: o.Why = False,
    json: o.Json = False,
    quiet: o.Quiet = False,
    verbose: o.Verbose = False,
) -> None:
    """Train a net on the labels: a teacher, or any.

    Files are YAML; recipes: potstill list recipes; all settings: potstill show config.

    \b
      potstill train --data folder:photos --model zoo:resnet32x4 --epochs 100 --out runs/teacher
      potstill train --data digits --model "zoo:cnn(widths=(16, 32, 32))" optim=adamw
    """
    SCREEN.set(quiet, verbose, json)
    flags = o.settings(
        out,
        name,
        data=data,
        model=model,
        epochs=epochs,
        batch=batch,
        lr=lr,
        seed=seed,
        seeds=seeds,
        device=device,
        launcher=launcher,
        precision=precision,
        time_limit=time_limit,
    )
    job("train", items or [], flags, check, print_config, why)


def split(items: list[str]) -> tuple[list[str], list[str]]:
    """Files and recipes on one side, ``key=value`` on the other; a file with = in its name is written ./a=b.yaml."""
    overrides = [item for item in items if "=" in item and "/" not in item.partition("=")[0]]
    return [item for item in items if item not in overrides], overrides


def job(kind: Kind, items: list[str], flags: dict[str, Any], check: bool, print_config: bool, why: bool) -> None:
    """Check the configuration, then print it, look at everything, or run it."""
    files, overrides = split(items)
    resolved = resolve(files, overrides, flags, kind)
    for notice in resolved.notices:
        SCREEN.note(f"note: {notice}")
    if print_config or why:
        SCREEN.result(
            resolved.why() if why else dump(resolved.config), resolved.config.model_dump(mode="json", by_alias=True)
        )
    elif check:
        look(resolved)
    else:
        run = engine()
        from potstill.console import Console

        start = run.distill if kind == "distill" else run.train
        result = start(resolved.config, user=to_yaml(resolved.user), console=Console(SCREEN.quiet, SCREEN.verbose))
        if result.lead:
            SCREEN.result(str(result.path), {"path": str(result.path), **result.facts})


def look(resolved: Resolved) -> None:
    """The preflight: everything that can be known before the first epoch."""
    run = engine()
    from potstill.console import Console

    lines = run.check(resolved.config, console=Console(SCREEN.quiet, SCREEN.verbose))
    if not lines:
        return  # the first of several processes tells
    SCREEN.result(
        "\n".join(lines), {"config": resolved.config.model_dump(mode="json", by_alias=True), "preflight": lines}
    )


def check(
    items: o.Items = None,
    config_only: Annotated[
        bool, typer.Option("--config-only", help="Not the models and data: no torch, no wait")
    ] = False,
    json: o.Json = False,
    quiet: o.Quiet = False,
    verbose: o.Verbose = False,
) -> None:
    """Check a configuration, its models and its data; train nothing.

    \b
      potstill check my.yaml
      potstill check my.yaml losses.kd.temperature=2 --config-only
    """
    SCREEN.set(quiet, verbose, json)
    files, overrides = split(items or [])
    if not files:
        raise ConfigError("which configuration?", hint="potstill check FILE.yaml, or a name of `potstill list recipes`")
    resolved = resolve(files, overrides)
    for notice in resolved.notices:
        SCREEN.note(f"note: {notice}")
    if not config_only:
        look(resolved)
        return
    config = resolved.config
    arrow = (
        f"{config.teacher.model} -> {config.student.model}, {config.label}" if config.teacher else config.student.model
    )
    SCREEN.result(f"ok: {config.kind} {arrow} on {config.data.source}", config.model_dump(mode="json", by_alias=True))


def resume(
    run_directory: Annotated[str, typer.Argument(metavar="RUN", help="A run directory.", show_default=False)],
    epochs: o.Epochs = None,
    allow_change: Annotated[
        bool, typer.Option("--allow-change", help="Although data, teacher or versions changed")
    ] = False,
    json: o.Json = False,
    quiet: o.Quiet = False,
    verbose: o.Verbose = False,
) -> None:
    """Go on with an interrupted run, exactly as if it had never stopped.

    \b
      potstill resume runs/1121-0102-kd-resnet8x4-photos
    """
    SCREEN.set(quiet, verbose, json)
    count = whole(epochs, "--epochs")
    existing(run_directory)
    run = engine()
    from potstill.console import Console

    console = Console(SCREEN.quiet, SCREEN.verbose)
    result = run.resume(run_directory, epochs=count, allow_change=allow_change, console=console)
    if result.lead:
        SCREEN.result(str(result.path), {"path": str(result.path), **result.facts})


def demo(
    seeds: Annotated[
        str, typer.Option("--seeds", metavar="N", help="Runs, for mean ± std [3]", show_default=False)
    ] = "3",
    out: Annotated[
        str, typer.Option("--out", metavar="DIR", help="The folder of its two runs [runs]", show_default=False)
    ] = "runs",
    json: o.Json = False,
    quiet: o.Quiet = False,
    verbose: o.Verbose = False,
) -> None:
    """A true result on this machine: handwritten digits that come with scikit-learn, no download.

    \b
      potstill demo
      potstill demo --seeds 5
    """
    SCREEN.set(quiet, verbose, json)
    count = whole(seeds, "--seeds")
    engine()
    from potstill.console import Console
    from potstill.demo import demo as shown

    result = shown(out, count or 3, console=Console(SCREEN.quiet, SCREEN.verbose))
    SCREEN.result(str(result.path), {"path": str(result.path), **result.facts})


def engine() -> Any:
    """``potstill.run``; on a terminal it is said that loading torch takes a moment."""
    with SCREEN.busy("loading torch"):
        from potstill import run
    return run


def whole(text: str | None, flag: str) -> int | None:
    """A flag that must be a whole number from 1."""
    if text is None:
        return None
    if not text.isdecimal() or int(text) < 1:
        raise ConfigError(f"{flag} must be a whole number from 1, got {text!r}")
    return int(text)


def existing(path: str) -> Path:
    """A run directory that exists; said before torch is loaded.

    Raises:
        ConfigError: there is none: says the nearest.
    """
    from potstill.runs import RunFolder

    return RunFolder.open(path).path
