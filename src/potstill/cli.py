"""The command line: ``potstill``. Puts the commands together, and turns faults into messages and exit codes."""

from __future__ import annotations

import errno
import os
import sys
import sysconfig
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated

import typer

from potstill._version import __version__
from potstill.commands import browse, cache, compress, edge, jobs, nets, results, sweep
from potstill.commands.screen import SCREEN
from potstill.errors import ConfigError, InterruptedRun, MachineError, PotstillError

HELP = """Distil big networks into small ones, and know what it brought.

\b
  potstill demo
  potstill train   --data folder:photos --model zoo:resnet32x4 --out runs/teacher
  potstill distill --data folder:photos --teacher runs/teacher --student zoo:resnet8x4
  potstill distill my.yaml losses.kd.temperature=2 --seeds 3
"""
MACHINE = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EROFS: "the disk is read-only",
}
MACHINE |= {errno.EACCES: "permission denied", errno.EPERM: "permission denied", errno.EMFILE: "too many open files"}

app = typer.Typer(
    help=HELP,
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)


def _version(value: bool) -> None:
    if value:
        print(f"potstill {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Say it.")] = False,
) -> None:
    pass


def doctor(
    json: Annotated[bool, typer.Option("--json", help="As JSON")] = False,
) -> None:
    """What this machine has, as a block to paste into an issue.

    \b
      potstill doctor
    """
    from potstill.doctor import examine, text

    SCREEN.set(json=json)
    facts = examine()
    SCREEN.result(text(facts), facts)


COMMANDS: dict[str, tuple[Callable[..., None], str]] = {
    "demo": (jobs.demo, "A true result on this machine in one line"),
    "train": (jobs.train, "Train a net on the labels, for example a teacher"),
    "distill": (jobs.distill, "Distil a teacher into a student"),
    "eval": (nets.evaluate, "Measure a net"),
    "compress": (compress.compress, "Make a trained net smaller: prune, distil back, quantize, export"),
    "sweep": (sweep.sweep, "Search settings by trials"),
    "resume": (jobs.resume, "Go on with an interrupted run, exactly"),
    "report": (results.report, "Write the page of a run, or of several"),
    "compare": (results.compare, "The leaderboard of runs"),
    "export": (edge.export, "The student as one file for a device"),
    "bench": (edge.bench, "How fast and how large such files are"),
    "predict": (edge.predict, "What is on a picture"),
    "list": (browse.list_, "Methods, models, data, recipes"),
    "show": (browse.show, "A method, model, recipe; the settings (show config)"),
    "inspect": (nets.inspect, "The layers of a net, or of a pair"),
    "cp": (browse.cp, "Copy a recipe"),
    "check": (jobs.check, "Check a configuration; train nothing"),
    "doctor": (doctor, "What this machine has"),
}
for _name, (_function, _short) in COMMANDS.items():
    app.command(_name, short_help=_short)(_function)
app.add_typer(cache.app, name="cache", short_help="What teachers said, kept on disk: build, ls, verify, rm")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command and leave with its exit code: 0 done, 2 usage or configuration, 3 data, 4 model, 5 diverged, 6 machine,
    7 refused for safety, 130 interrupted, 1 a fault of ours."""
    sys.exit(run(sys.argv[1:] if arguments is None else arguments))


def run(arguments: Sequence[str]) -> int:
    """Run a command; its exit code."""
    SCREEN.set()
    arguments = ["--print-config-why" if a == "--print-config=why" else a for a in arguments]
    try:
        code = app(arguments, prog_name="potstill", standalone_mode=False)
        sys.stdout.flush()
        if code == InterruptedRun.exit_code:
            raise KeyboardInterrupt
    except PotstillError as error:
        SCREEN.error(error)
        return error.exit_code
    except (KeyboardInterrupt, typer.Abort):
        print("interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # `potstill list methods | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        return _other(error, arguments)
    return int(code or 0)


def _other(error: Exception, arguments: Sequence[str]) -> int:
    """What is not our own error: a wrong usage, the machine, or a fault of ours."""
    usage = getattr(error, "format_message", None)
    if usage is not None:
        if type(error).__name__ == "NoArgsIsHelpError":
            print(usage())
            return 0
        command = next((a for a in arguments if a in COMMANDS), None)
        SCREEN.error(ConfigError(usage(), hint=" ".join(filter(None, ("potstill", command, "--help")))))
        return ConfigError.exit_code
    if isinstance(error, OSError) and error.errno in MACHINE:
        SCREEN.error(MachineError(f"{MACHINE[error.errno]}: {error.filename or error}"))
        return MachineError.exit_code
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        SCREEN.error(
            MachineError(
                "out of memory", hint="a smaller data.batch, or accumulate=2 for the same gradient in two parts"
            )
        )
        return MachineError.exit_code
    if place := _users_line(error):
        SCREEN.error(PotstillError(f"{type(error).__name__}: {error}", where=place, why="raised by your code"))
        return PotstillError.exit_code
    SCREEN.bug(error)
    return 1


def _users_line(error: Exception) -> str | None:
    """``FILE:LINE`` of the user's own code, if that is where the fault was raised or where it called torch."""
    ours = Path(__file__).parent
    installed = [Path(p).resolve() for p in sysconfig.get_paths().values()]
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        path = Path(frame.filename)
        if ours in path.parents:
            return None
        if path.is_file() and not any(p in path.resolve().parents for p in installed):
            return f"{frame.filename}:{frame.lineno}"
    return None


if __name__ == "__main__":
    main()
