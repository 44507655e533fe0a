"""The command that makes a trained net smaller."""

from typing import Annotated, Any

import typer

from potstill.commands import options as o
from potstill.commands.jobs import whole
from potstill.commands.nets import Trust
from potstill.commands.screen import SCREEN, columns, number
from potstill.config.yaml import value
from potstill.errors import ConfigError

TARGETS = ("macs", "parameters", "bytes", "latency")


def compress(
    model: Annotated[
        str,
        typer.Argument(metavar="RUN|MODEL|FILE", help="A run, a trained net, a configuration.", show_default=False),
    ],
    out: Annotated[str, typer.Option("--out", metavar="DIR", help="The folder of the compression", show_default=False)],
    prune: Annotated[str | None, typer.Option("--prune", metavar="SHARE", help="Share of the channels that go")] = None,
    macs: Annotated[
        str | None, typer.Option("--target-macs", metavar="N", help="Prune until it has so many; below 1: a share")
    ] = None,
    parameters: Annotated[str | None, typer.Option("--target-parameters", metavar="N", help="Likewise")] = None,
    size: Annotated[str | None, typer.Option("--target-bytes", metavar="N", help="Likewise")] = None,
    latency: Annotated[
        str | None, typer.Option("--target-latency", metavar="MS", help="Milliseconds a picture on this machine")
    ] = None,
    importance: Annotated[
        str | None, typer.Option("--importance", metavar="NAME", help="magnitude, bn, taylor [magnitude]", hidden=True)
    ] = None,
    round_to: Annotated[
        str | None, typer.Option("--round-to", metavar="N", help="Channels stay a multiple of it [8]", hidden=True)
    ] = None,
    limit: Annotated[
        list[str] | None,
        typer.Option("--limit", metavar="LAYER=SHARE", help="Most that goes of a layer; 0: nothing", hidden=True),
    ] = None,
    rounds: Annotated[
        str | None, typer.Option("--rounds", metavar="N", help="Prune in so many steps [1]", hidden=True)
    ] = None,
    recover: Annotated[
        str | None, typer.Option("--recover", metavar="EPOCHS", help="Distil back after each cut; 0: not [10]")
    ] = None,
    method: Annotated[str | None, typer.Option("-m", "--method", metavar="NAME", help="Of the recovery [dist]")] = None,
    teacher: o.Teacher = None,
    control: Annotated[
        bool | None,
        typer.Option("--control/--no-control", help="Recover from labels only too [on]", show_default=False),
    ] = None,
    lowrank: Annotated[
        str | None, typer.Option("--lowrank", metavar="SHARE", help="Factorise layers: share of the ranks that stays")
    ] = None,
    sparsify: Annotated[
        str | None, typer.Option("--sparsify", metavar="SHARE|N:M", help="Zeros: a share, or 2:4; seldom faster")
    ] = None,
    quantize: Annotated[
        str | None, typer.Option("--quantize", metavar="P", help="int8, int4, int8-weights, int4-weights, bf16")
    ] = None,
    train: Annotated[
        str | None, typer.Option("--train", metavar="STEPS", help="Train with quantization, the teacher watching [0]")
    ] = None,
    mixed: Annotated[
        str | None,
        typer.Option(
            "--mixed",
            metavar="X",
            help="The worst layers stay float: at most this share of answers changes",
            hidden=True,
        ),
    ] = None,
    export: Annotated[
        str | None, typer.Option("--export", metavar="KIND", help="onnx, pt2, pte, or several: onnx,pt2")
    ] = None,
    verify: Annotated[
        bool | None,
        typer.Option("--verify/--no-verify", help="Run the exported files; refuse a loss [on]", show_default=False),
    ] = None,
    allowed_drop: Annotated[
        str | None, typer.Option("--allowed-drop", metavar="POINTS", help="Of accuracy; more is refused [1]")
    ] = None,
    config: Annotated[
        str | None, typer.Option("--config", metavar="FILE", help="Settings, and what is done: its `compress:`")
    ] = None,
    data: o.Data = None,
    trust_code: Trust = False,
    json: o.Json = False,
    quiet: o.Quiet = False,
    verbose: o.Verbose = False,
) -> None:
    """Make a trained net smaller: prune, distil back, factorise, quantize, export. The same again goes on where it stopped.

    A configuration is distilled first. Its `compress:` says all that flags do, and more.

    \b
      potstill compress runs/kd --prune 0.5 --quantize int8 --export onnx --out runs/edge
      potstill compress runs/kd --target-macs 0.5 --recover 10 --teacher runs/teacher --out runs/half
      potstill compress edge.yaml --out runs/edge
    """
    SCREEN.set(quiet, verbose, json)
    goals = dict(zip(TARGETS, (macs, parameters, size, latency), strict=True))
    aims = {name: share(text, f"--target-{name}") for name, text in goals.items() if text is not None}
    if prune is not None and aims:
        raise ConfigError("--prune is a share of the channels, a target is a cost: one of them")
    cut = {
        "ratio": None if prune is None else share(prune, "--prune"),
        **aims,
        "importance": importance,
        "round_to": None if round_to is None else whole(round_to, "--round-to"),
        "limits": dict(map(limited, limit)) if limit else None,
    }
    back = {
        "epochs": None if recover is None else 0 if recover == "0" else whole(recover, "--recover"),
        "method": method,
        "control": control,
    }
    fewer = {
        "precision": quantize,
        "train": None if train is None else whole(train, "--train"),
        "mixed": None if mixed is None else share(mixed, "--mixed"),
    }
    proof = None if allowed_drop is None else {"allowed_drop": share(allowed_drop, "--allowed-drop")}
    plan: dict[str, Any] = {
        "prune": said(cut),
        "rounds": None if rounds is None else whole(rounds, "--rounds"),
        "recover": said(back),
        "lowrank": None if lowrank is None else share(lowrank, "--lowrank"),
        "sparsify": sparsify if sparsify is None or ":" in sparsify else share(sparsify, "--sparsify"),
        "quantize": said(fewer),
        "export": export,
        "verify": False if verify is False else proof or verify,
    }
    from potstill.compress.chain import compress as start
    from potstill.console import Console

    console = Console(SCREEN.quiet, SCREEN.verbose)
    done = start(model, out, teacher=teacher, data=data, trust_code=trust_code, console=console, config=config, **plan)
    heads = ("stage", "top-1 test", "agree", "parameters", "MACs", "bytes", "ms")
    table = columns((row for stage in done.facts["stages"] for row in rows_of(stage)), heads)
    SCREEN.result(f"{table}\n\n{done.path}", {"path": str(done.path), **done.facts})


def rows_of(stage: dict[str, Any]) -> list[list[str]]:
    """A stage as a line of the table, and a line for each of the artefacts that it ran; what is not known stays empty."""
    facts = stage["facts"]
    files = [(f"  {a['name']} ({a['runtime']}, {a['precision']})", a) for a in facts.get("artefacts", ())]
    return [_row(name, known) for name, known in [(stage["name"], facts), *files]]


def _row(name: str, facts: dict[str, Any]) -> list[str]:
    test = facts.get("test") or {}
    shares = [f"{100 * test[k]:.2f}" if k in test else "" for k in ("top1", "agreement")]
    numbers = [number(facts[k]) if k in facts else "" for k in ("parameters", "macs", "bytes")]
    return [name, *shares, *numbers, f"{facts['latency_ms']:.2f}" if "latency_ms" in facts else ""]


def said(settings: dict[str, Any]) -> dict[str, Any] | None:
    """What is said of them; None: nothing."""
    return {k: v for k, v in settings.items() if v is not None} or None


def share(text: str, flag: str) -> float:
    """A flag that must be a number."""
    read = value(text)
    if isinstance(read, bool) or not isinstance(read, int | float):
        raise ConfigError(f"{flag} must be a number, got {text!r}")
    return float(read)


def limited(text: str) -> tuple[str, float]:
    """``layer1.*=0.25`` as a pattern and its share."""
    layer, _, number_ = text.partition("=")
    if not layer or not number_:
        raise ConfigError(f"--limit is LAYER=SHARE, such as 'layer1.*=0.25', got {text!r}")
    return layer, share(number_, "--limit")
