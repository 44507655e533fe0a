"""Commands that look at nets: eval, inspect."""

from typing import Annotated, Any

import typer

from potstill.commands import options as o
from potstill.commands.screen import SCREEN, columns, number
from potstill.errors import ConfigError

Trust = Annotated[bool, typer.Option("--trust-code", help="Run the code that a run directory names as its net")]


def evaluate(
    model: Annotated[
        str, typer.Argument(metavar="RUN|MODEL", help="A run directory, or any model.", show_default=False)
    ],
    data: o.Data = None,
    part: Annotated[str, typer.Option("--split", metavar="PART", help="train, val or test")] = "test",
    trust_code: Trust = False,
    json: o.Json = False,
    quiet: o.Quiet = False,
    verbose: o.Verbose = False,
) -> None:
    """Measure a net: accuracy, NLL, calibration, accuracy of each class.

    \b
      potstill eval runs/teacher
      potstill eval hf:microsoft/resnet-18 --data folder:photos --split val
    """
    SCREEN.set(quiet, verbose, json)
    if part not in ("train", "val", "test"):
        raise ConfigError(f"--split must be train, val or test, got {part!r}")
    from potstill import evaluate as looking

    measures = looking.evaluate(model, data=data, split=part, trust_code=trust_code)
    classes = measures.get("per_class", {})
    rows = [(k, f"{v:.4f}" if isinstance(v, float) else v) for k, v in measures.items() if k != "per_class"]
    rows += [(f"  {name}", f"{accuracy:.4f}") for name, accuracy in classes.items()]
    SCREEN.result(columns(rows, ("measure", "value")), measures)


def inspect(
    model: Annotated[
        str | None, typer.Argument(metavar="MODEL", help="What --model takes.", show_default=False)
    ] = None,
    pair: Annotated[
        tuple[str, str] | None, typer.Option("--pair", metavar="TEACHER STUDENT", help="Which layers go together")
    ] = None,
    picture: Annotated[
        str | None, typer.Option("--input", metavar="CxHxW", help="Shape of a picture [that of a run, else 3x32x32]")
    ] = None,
    classes: Annotated[
        int, typer.Option("--classes", metavar="N", help="Classes of a net that starts untrained", min=2)
    ] = 10,
    trust_code: Trust = False,
    json: o.Json = False,
    quiet: o.Quiet = False,
    verbose: o.Verbose = False,
) -> None:
    """The layers of a net: names for `at`, output shapes, parameters; or the layers of two nets side by side.

    \b
      potstill inspect zoo:resnet8x4
      potstill inspect --pair zoo:resnet32x4 zoo:resnet8x4 --input 3x64x64
    """
    SCREEN.set(quiet, verbose, json)
    sides = [int(n) if n.isdecimal() else 0 for n in picture.lower().split("x")] if picture else []
    if picture and (len(sides) != 3 or 0 in sides):
        raise ConfigError(f"--input must be channels, height and width such as 3x32x32, got {picture!r}")
    if pair is not None and model is None:
        names: tuple[str, str | None] = pair
    elif model is not None and pair is None:
        names = (model, None)
    else:
        raise ConfigError("give one MODEL, or --pair TEACHER STUDENT", hint="potstill inspect zoo:resnet8x4")
    from potstill import evaluate as looking

    found = looking.inspect(*names, size=tuple(sides) or None, classes=classes, trust_code=trust_code)
    keys = (
        ("teacher", "teacher_shape", "student", "student_shape")
        if pair
        else ("path", "kind", "shape", "parameters", "tappable")
    )
    rows = [[_cell(row[key]) for key in keys] for row in found["pairs" if pair else "layers"]]
    table = columns(rows, [key.replace("_", " ") for key in keys])
    said = (
        ""
        if pair
        else f"\n\nstages       {', '.join(found['stages']) or 'none found'}\npenultimate  {found['penultimate']}"
    )
    SCREEN.result(table + said, found)


def _cell(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return "x".join(map(str, value))
    return number(value) if isinstance(value, int) else str(value)
