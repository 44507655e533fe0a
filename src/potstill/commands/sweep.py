"""The command that searches settings."""

from typing import Annotated

import typer

from potstill.commands import options as o
from potstill.commands.jobs import split, whole
from potstill.commands.screen import SCREEN
from potstill.errors import ConfigError


def sweep(
    items: o.Items = None,
    trials: Annotated[
        str | None, typer.Option("--trials", metavar="N", help="How many in all; more than there are: go on [20]")
    ] = None,
    over: Annotated[
        list[str] | None,
        typer.Option("--over", metavar="KEY=RANGE", help="1..20, or a,b [temperature, weight of each loss]"),
    ] = None,
    against: Annotated[
        str | None, typer.Option("--against", metavar="COST", help="Second aim: parameters, macs, bytes, latency")
    ] = None,
    recover: Annotated[
        str | None, typer.Option("--recover", metavar="EPOCHS", help="After --over prune=.. [a fifth of the epochs]")
    ] = None,
    stop: Annotated[
        bool | None,
        typer.Option("--stop/--no-stop", help="Stop trials worse than the median early [on]", show_default=False),
    ] = None,
    workers: Annotated[
        str | None, typer.Option("--workers", metavar="N", help="Processes that share the trials [1]")
    ] = None,
    together: Annotated[
        str | None, typer.Option("--together", metavar="N", help="Trials at once on one pass of the teacher [1]")
    ] = None,
    launcher: Annotated[
        str | None,
        typer.Option("--launcher", metavar="NAME", help="ray: workers on a Ray cluster; settings: ray.address ..."),
    ] = None,
    data: o.Data = None,
    teacher: o.Teacher = None,
    student: o.Student = None,
    method: o.Method = None,
    epochs: o.Epochs = None,
    batch: o.Batch = None,
    lr: o.Rate = None,
    seed: o.Seed = None,
    seeds: Annotated[
        str | None, typer.Option("--seeds", metavar="N", help="Runs a trial; their mean counts [1]")
    ] = None,
    device: o.Device = None,
    precision: o.Precision = None,
    time_limit: Annotated[str | None, typer.Option("--time-limit", metavar="TIME", help="Of a trial: 30m, 2h")] = None,
    out: Annotated[
        str | None, typer.Option("--out", metavar="DIR", help="The folder of the sweep [sweeps/<names>]")
    ] = None,
    name: Annotated[
        str | None, typer.Option("--name", metavar="NAME", help="It is sweeps/NAME, or DIR/NAME with --out")
    ] = None,
    json: o.Json = False,
    quiet: o.Quiet = False,
    verbose: o.Verbose = False,
) -> None:
    """Search settings by trials: the best on the validation data, or a front of accuracy against cost.

    The same command goes on where it was interrupted; in several shells it shares the trials.
    `sweep:` in a configuration says the same.

    \b
      potstill sweep digits --trials 20
      potstill sweep my.yaml --over losses.kd.temperature=1..20 --over optim.lr=0.01..0.5 --workers 2
      potstill sweep my.yaml --over losses.kd.temperature=2,4,8,16 --trials 4 --together 4
      potstill sweep my.yaml --over student=resnet8,resnet14,resnet20 --over prune=0..0.7 --against macs
    """
    SCREEN.set(quiet, verbose, json)
    flags = o.settings(
        None,
        None,
        data=data,
        teacher=teacher,
        student=student,
        method=method,
        epochs=epochs,
        batch=batch,
        lr=lr,
        seed=seed,
        seeds=seeds,
        device=device,
        precision=precision,
        time_limit=time_limit,
    )
    files, overrides = split(items or [])
    if not files and not flags:
        raise ConfigError(
            "a sweep of what?", hint="potstill sweep RECIPE, or --teacher MODEL --student MODEL --data DATA"
        )
    place = o.settings(out, name)
    said = {
        "over": over,
        "trials": whole(trials, "--trials"),
        "against": against,
        "recover": 0 if recover == "0" else whole(recover, "--recover"),
        "workers": whole(workers, "--workers"),
        "together": whole(together, "--together"),
        "launcher": launcher,
        "stop": stop,
    }
    with SCREEN.busy("loading torch"):
        from potstill.search.job import run_sweep
        from potstill.search.plan import Plan
    from potstill.console import Console

    plan = Plan.asked(files, overrides, flags, **said, out=place.get("out") or "sweeps", name=place.get("name"))
    found = run_sweep(plan, Console(SCREEN.quiet, SCREEN.verbose))
    SCREEN.result(str(found.path), {"path": str(found.path), **found.facts})
