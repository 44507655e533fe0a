"""The flags that several commands share; a flag is a setting that people change often, the others are ``key=value``."""

from typing import Annotated, Any

import typer

from potstill.config.yaml import value

Items = Annotated[
    list[str] | None,
    typer.Argument(metavar="FILE|RECIPE|KEY=VALUE", hidden=True),
]
Data = Annotated[
    str | None, typer.Option("--data", metavar="DATA", help="digits, folder:PATH, ... (potstill list data)")
]
Teacher = Annotated[
    str | None, typer.Option("--teacher", metavar="MODEL", help="The net that teaches: a run, hf:REPO, ...")
]
TeacherSpeed = Annotated[
    str | None, typer.Option("--teacher-speed", metavar="HOW", help="auto, exact (bit for bit), equal, fast (bf16)")
]
Student = Annotated[
    str | None, typer.Option("--student", metavar="MODEL", help="The net that learns (potstill list models)")
]
Model = Annotated[
    str | None, typer.Option("--model", metavar="MODEL", help="The net that learns (potstill list models)")
]
Method = Annotated[
    str | None, typer.Option("-m", "--method", metavar="NAME", help="kd, at+kd, ... (potstill list methods)")
]
Spots = Annotated[
    str | None, typer.Option("--spots", metavar="RULE", help="Where, per sample: adaptive, random, anti ...")
]
Epochs = Annotated[str | None, typer.Option("--epochs", metavar="N", help="Passes over the data [30]")]
Batch = Annotated[str | None, typer.Option("--batch", metavar="N", help="Pictures a step [64]")]
Rate = Annotated[str | None, typer.Option("--lr", metavar="X", help="Learning rate [0.05]")]
Seed = Annotated[str | None, typer.Option("--seed", metavar="N", help="Of the first run [0]")]
Seeds = Annotated[str | None, typer.Option("--seeds", metavar="N", help="Runs, for mean ± std [1]")]
Together = Annotated[
    str | None, typer.Option("--together", metavar="N", help="Seeds trained at once on one pass of the teacher [1]")
]
Control = Annotated[
    bool | None, typer.Option("--control/--no-control", help="Train the student alone too [on]", show_default=False)
]
Launcher = Annotated[
    str | None, typer.Option("--launcher", metavar="NAME", help="ray: on a Ray cluster; settings: ray.address ...")
]
Device = Annotated[str | None, typer.Option("--device", metavar="NAME", help="auto, cpu, cuda, mps [auto]")]
Precision = Annotated[str | None, typer.Option("--precision", metavar="P", help="auto, 32, bf16, 16 [auto]")]
TimeLimit = Annotated[str | None, typer.Option("--time-limit", metavar="TIME", help="End in time: 30m, 2h")]
Out = Annotated[str | None, typer.Option("--out", metavar="DIR", help="The run directory [runs/<time and names>]")]
Name = Annotated[
    str | None, typer.Option("--name", metavar="NAME", help="The run is runs/NAME, or DIR/NAME with --out")
]
Check = Annotated[bool, typer.Option("--check", help="Look at everything, train nothing")]
Print = Annotated[bool, typer.Option("--print-config", help="The whole configuration; =why: whence each value")]
Why = Annotated[bool, typer.Option("--print-config-why", hidden=True)]
Json = Annotated[bool, typer.Option("--json", help="The result as JSON")]
Quiet = Annotated[bool, typer.Option("-q", "--quiet", help="Errors and the result only")]
Verbose = Annotated[bool, typer.Option("-v", "--verbose", help="More, and tracebacks")]

KEYS = {
    "data": "data.source",
    "teacher": "teacher.model",
    "teacher_speed": "teacher.speed",
    "teacher-speed": "teacher.speed",
    "student": "student.model",
    "model": "student.model",
    "batch": "data.batch",
    "lr": "optim.lr",
    "spots": "spots.rule",
}
"""The settings of the flags whose name is not that of their setting; as flags and as arguments of the commands."""
NUMBERS = {"epochs", "batch", "lr", "seed", "seeds", "together"}


def settings(out: str | None, name: str | None, **flags: Any) -> dict[str, Any]:
    """Flags as settings by their keys. ``--out`` is the run directory itself, or with ``--name`` the folder that it is in."""
    given = {k: v for k, v in flags.items() if v is not None}
    keyed = {KEYS.get(k, k): value(v) if k in NUMBERS else v for k, v in given.items()}
    if name is not None:
        keyed["name"] = name
    if out is not None:
        folder, _, last = out.rstrip("/\\").replace("\\", "/").rpartition("/")
        keyed |= (
            {"out": out}
            if name is not None or not last
            else {"out": folder or ("/" if out[:1] == "/" else "."), "name": last}
        )
    return keyed
