"""Commands for devices: write a file, measure files, use one."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from potstill.commands import options as o
from potstill.commands.nets import Trust
from potstill.commands.screen import SCREEN, columns
from potstill.config.stages import FORMATS
from potstill.errors import ConfigError, DataError, did_you_mean

if TYPE_CHECKING:
    from potstill.compress.runtimes import Runs
    from potstill.compress.stage import Work


def export(
    run: Annotated[str, typer.Argument(metavar="RUN", help="A run directory.", show_default=False)],
    to: Annotated[
        str | None, typer.Option("--to", metavar="KIND", help="onnx, pt2, pte [that of FILE, else onnx]")
    ] = None,
    quantize: Annotated[
        str | None, typer.Option("--quantize", metavar="P", help="int8, int4, int8-weights, int4-weights, bf16")
    ] = None,
    train: Annotated[
        int, typer.Option("--train", metavar="STEPS", help="Train with quantization, the float net teaching", min=0)
    ] = 0,
    mixed: Annotated[
        float | None,
        typer.Option("--mixed", metavar="X", help="The worst layers stay float: at most this share of answers changes"),
    ] = None,
    target: Annotated[str, typer.Option("--target", metavar="CPU", help="x86 or arm")] = "x86",
    out: Annotated[str | None, typer.Option("--out", metavar="FILE", help="[RUN/student.KIND]")] = None,
    allowed_drop: Annotated[
        float, typer.Option("--allowed-drop", metavar="POINTS", help="Of accuracy; more is refused", min=0)
    ] = 1.0,
    licence: Annotated[str | None, typer.Option("--licence", metavar="SPDX", help="Of the weights")] = None,
    verify: Annotated[
        bool, typer.Option("--verify/--no-verify", help="Prove it on the run's data", show_default=False)
    ] = True,
    data: o.Data = None,
    trust_code: Trust = False,
    json: o.Json = False,
    quiet: o.Quiet = False,
    verbose: o.Verbose = False,
) -> None:
    """Write the student as one file for a device: preprocessing, class names and licence inside, proven on the data.

    \b
      potstill export runs/student --to onnx --quantize int8 --out student.onnx
    """
    SCREEN.set(quiet, verbose, json)
    kind = to or (Path(out).suffix.removeprefix(".") if out else "") or "onnx"
    if kind not in FORMATS:
        raise ConfigError(
            f"there is no format {kind!r}.{did_you_mean(kind, FORMATS)} Known: {', '.join(FORMATS)}", where="--to"
        )
    file = Path(out) if out else Path(run) / ".".join(filter(None, ("student", quantize, kind)))
    if file.suffix != f".{kind}":
        raise ConfigError(f"--out {file} must end in .{kind}", hint=f"--out {file.with_suffix('.' + kind)}")
    if file.is_dir():
        raise ConfigError(f"--out {file} is a folder, expected the name of a file")
    from potstill.compress.export import Export
    from potstill.compress.stage import make
    from potstill.compress.verify import Verify
    from potstill.models.weights import writing

    stages: list[Any] = [
        *([make("quantize", quantize, train=train, mixed=mixed, target=target)] if quantize else []),
        Export(kind, licence=licence),
        *([Verify(allowed_drop)] if verify else []),
    ]
    if not quantize and (train or mixed is not None):
        raise ConfigError("--train and --mixed are for --quantize", hint="--quantize int8")
    work = _work(run, data, trust_code, quiet or json)
    with writing(file.parent):
        file.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=file.parent, prefix=".potstill-") as folder:
        said: dict[str, Any] = {}
        for i, stage in enumerate(stages):
            work.folder = Path(folder) / f"{i}-{stage.kind}"
            work.folder.mkdir()
            said[stage.kind] = stage.run(work)
            work.before[work.folder.name] = work.folder
        exported = work.last("export")
        assert exported is not None
        made = exported / ".".join(filter(None, ("student", quantize, kind)))
        for source in (made, made.with_name(made.name + ".json")):
            if source.exists():
                os.replace(source, file.with_name(file.name + source.name.removeprefix(made.name)))
    for part in said.values():
        for notice in part.get("notices", ()):
            SCREEN.note(notice)
    SCREEN.result(str(file), {"file": str(file), "bytes": file.stat().st_size, **said.get("verify", {})})


def _work(run: str, data: str | None, trust_code: bool, quiet: bool) -> Work:
    from potstill.compress.stage import Work
    from potstill.config.load import resolve as resolve_config
    from potstill.config.sections import ModelConfig
    from potstill.console import Console
    from potstill.models.resolve import load_student

    net = load_student(run, trust_code=trust_code)
    recorded = Path(run).expanduser() / "config.yaml"
    source = [f"data.source={data}"] if data else []
    if recorded.exists():
        config = resolve_config([str(recorded)], source, {}).config
    elif data:
        config = resolve_config([], source, {"student.model": run}, "train").config
    else:
        raise ConfigError(f"{run} does not say which data it is of", hint=f"potstill export {run} --data folder:PATH")
    changes = {"kind": "train", "student": ModelConfig(model=run), "trust_code": trust_code}
    work = Work(Path(), net, config.model_copy(update=changes), net, console=Console(quiet))
    if net.size is None or net.in_channels is None:
        net.in_channels, net.size = work.ready.splits.shape[0], tuple(work.ready.splits.shape[1:])  # type: ignore[assignment]
    return work


def bench(
    artefacts: Annotated[
        list[str],
        typer.Argument(metavar="ARTEFACT...", help="Files of export, or run directories.", show_default=False),
    ],
    repeats: Annotated[int, typer.Option("--repeats", metavar="N", help="Runs of each", min=1, max=100_000)] = 100,
    trust_code: Trust = False,
    json: o.Json = False,
    quiet: o.Quiet = False,
    verbose: o.Verbose = False,
) -> None:
    """Measure files on this machine: batch of one, one thread, medians of runs that take turns; size.

    \b
      potstill bench student.onnx student.int8.onnx runs/student
    """
    SCREEN.set(quiet, verbose, json)
    runs = [_open(a, trust_code) for a in artefacts]
    from potstill.compress.runtimes import latencies

    times = latencies(runs, repeats=repeats)
    rows = [
        {
            "artefact": a,
            "runtime": r.runtime,
            "precision": r.card.get("precision", "?"),
            "bytes": r.bytes,
            "latency_ms": t.wall_ms,
            "cpu_ms": t.cpu_ms,
            "p90_ms": t.p90_ms,
            "least_ms": t.least_ms,
            "speedup": times[0].cpu_ms / t.cpu_ms,
            "contended": t.contended,
        }
        for a, r, t in zip(artefacts, runs, times, strict=True)
    ]
    heads = ("artefact", "runtime", "precision", "kB", "ms", "cpu ms", "p90 ms", "least ms", "speed")
    cells = [
        (
            r["artefact"],
            r["runtime"],
            r["precision"],
            f"{r['bytes'] / 1000:,.0f}",
            *(f"{r[k]:.3f}" for k in ("latency_ms", "cpu_ms", "p90_ms", "least_ms")),
            f"{r['speedup']:.2f}x",
        )
        for r in rows
    ]
    SCREEN.result(columns(cells, heads), rows)
    if any(t.contended for t in times):
        SCREEN.note("other work of the machine disturbs the latencies: compare the processor times")


def predict(
    artefact: Annotated[
        str, typer.Argument(metavar="ARTEFACT", help="A file of export, or a run directory.", show_default=False)
    ],
    pictures: Annotated[list[str], typer.Argument(metavar="PICTURE...", help="Picture files.", show_default=False)],
    top: Annotated[int, typer.Option("--top", metavar="N", help="Classes to name", min=1)] = 5,
    trust_code: Trust = False,
    json: o.Json = False,
    quiet: o.Quiet = False,
    verbose: o.Verbose = False,
) -> None:
    """Say what is on pictures: the best classes with their probabilities.

    \b
      potstill predict student.int8.onnx cat.png
    """
    SCREEN.set(quiet, verbose, json)
    run = _open(artefact, trust_code)
    found, rows = [], []
    for picture in pictures:
        p = run.logits(_picture(picture, run)).softmax(1)[0]
        names = run.classes if run.classes and len(run.classes) == len(p) else [str(i) for i in range(len(p))]
        best = p.topk(min(top, len(p)))
        pairs = zip(best.indices.tolist(), best.values.tolist(), strict=True)
        said = [{"class": names[i], "probability": v} for i, v in pairs]
        rows += [(picture, t["class"], f"{100 * t['probability']:.2f} %") for t in said]
        found.append({"picture": picture, "top": said})
    SCREEN.result(columns(rows, ("picture", "class", "probability")), found)


def _open(place: str, trust_code: bool) -> Runs:
    from potstill.compress.runtimes import EagerNet, open_artefact

    path = Path(place).expanduser()
    if not path.is_dir():
        return open_artefact(path)
    from potstill.models.resolve import load_student

    return EagerNet(load_student(path, trust_code=trust_code), place)


def _picture(file: str, run: Runs) -> Any:
    """A picture file as the net's picture, (1, C, H, W), in [0, 1]: shorter side to the net's, centre cut out."""
    import torch
    from PIL import Image

    from potstill.data.pictures import decode, quiet_pillow
    from potstill.models.weights import existing_file

    path = existing_file(file)
    shape = run.picture
    side, channels = (max(shape[1:]), shape[0]) if shape else (None, None)
    if channels not in (1, 3, None):
        raise DataError(f"{run.name} takes pictures of {channels} channels, not picture files")
    try:
        with quiet_pillow():
            pixels = decode(path, side, channels).pixels
            with Image.open(path) as image:
                given = (*image.size[::-1], len(image.getbands()))
    except Exception as error:  # Pillow raises nearly anything
        raise DataError(f"{file} cannot be read as a picture: {error}") from error
    if shape and given != (*shape[1:], shape[0]):
        was, now = ("{}x{}, {} channel(s)".format(*sizes) for sizes in (given, (*shape[1:], shape[0])))
        SCREEN.note(f"{file}: {was}, scaled and cut to what the net takes: {now}")
    if shape:
        top, left = (pixels.shape[1] - shape[1]) // 2, (pixels.shape[2] - shape[2]) // 2
        pixels = pixels[:, top : top + shape[1], left : left + shape[2]]
    return torch.from_numpy(pixels.copy()).float()[None] / 255
