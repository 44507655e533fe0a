"""Commands for what teachers said, kept on disk: cache build, cache ls, cache verify, cache rm."""

from typing import Annotated

import typer

from potstill.commands import options as o
from potstill.commands.jobs import split, whole
from potstill.commands.screen import SCREEN, columns
from potstill.config import resolve

Names = Annotated[
    list[str], typer.Argument(metavar="NAME...", help="Of caches, or the beginning of it.", show_default=False)
]
SomeNames = Annotated[
    list[str] | None,
    typer.Argument(metavar="NAME", help="Of caches, or the beginning of it [all]", show_default=False),
]
Folder = Annotated[str | None, typer.Option("--dir", metavar="FOLDER", help="Where they lie [$POTSTILL_CACHE]")]

app = typer.Typer(
    help="What teachers said of training pictures, kept on disk.", no_args_is_help=True, rich_markup_mode=None
)


@app.command("build")
def build(
    items: o.Items = None,
    data: o.Data = None,
    teacher: o.Teacher = None,
    teacher_speed: o.TeacherSpeed = None,
    student: o.Student = None,
    method: o.Method = None,
    epochs: o.Epochs = None,
    views: Annotated[str | None, typer.Option("--views", metavar="M", help="Views of each picture [4]")] = None,
    folder: Folder = None,
    device: o.Device = None,
    precision: o.Precision = None,
    json: o.Json = False,
    quiet: o.Quiet = False,
    verbose: o.Verbose = False,
) -> None:
    """Ask a teacher ahead: runs with the same files, flags and cache settings then do not ask it.

    The same command goes on where it was interrupted. Started several times (also on machines that share the folder), or with
    devices=N, it divides the work.

    \b
      potstill cache build my.yaml --views 8
      potstill cache build --data folder:photos --teacher runs/teacher --student zoo:resnet8x4 cache.dtype=int8
    """
    SCREEN.set(quiet, verbose, json)
    flags = o.settings(
        None,
        None,
        data=data,
        teacher=teacher,
        teacher_speed=teacher_speed,
        student=student,
        method=method,
        epochs=epochs,
        device=device,
        precision=precision,
    )
    more = {"cache.on": True, "cache.views": whole(views, "--views"), "cache.dir": folder}
    files, overrides = split(items or [])
    resolved = resolve(files, overrides, {**flags, **{k: v for k, v in more.items() if v is not None}}, "distill")
    for notice in resolved.notices:
        SCREEN.note(f"note: {notice}")
    with SCREEN.busy("loading torch"):
        from potstill.ahead import build
    from potstill.cache.shelf import size
    from potstill.console import Console

    rows = build(resolved.config, console=Console(SCREEN.quiet, SCREEN.verbose))
    if rows is None:
        return  # the first of several processes tells
    lines = [f"{r['name']}: {r['records']:,} answers, {size(r['bytes'])}; asked for {r['asked']:,} now" for r in rows]
    SCREEN.result("\n".join(lines) or "no loss asks the teacher: nothing to keep", rows)


@app.command("ls")
def ls(folder: Folder = None, json: o.Json = False) -> None:
    """List the caches: what each holds, its size, how much of it is filled.

    \b
      potstill cache ls
    """
    SCREEN.set(json=json)
    from potstill.cache.shelf import Shelf, size

    shelf = Shelf(folder)
    rows, exams = shelf.rows(), shelf.exam_bytes()
    cells = [
        (
            row["name"],
            row["teacher"],
            row["views"],
            f"{row['samples']:,}",
            size(row["bytes"]),
            f"{100 * row['filled']:.0f} %",
            "; ".join([*row["losses"], *(f"{spot} {kind}" for spot, kind in row["spots"].items() if ":" not in spot)]),
        )
        for row in rows
    ]
    heads = ("name", "teacher", "views", "pictures", "size", "filled", "holds")
    said = columns(cells, heads) if cells else "no caches"
    more = f"\nand of validation and test pictures {size(exams)} (potstill cache rm exams)" if exams else ""
    SCREEN.result(said + more, rows)


@app.command("verify")
def verify(names: SomeNames = None, folder: Folder = None, json: o.Json = False) -> None:
    """Read caches whole, all where none is named, and hold every record against its checksum; exit code 3 where one is damaged.

    \b
      potstill cache verify
      potstill cache verify 3f2a
    """
    SCREEN.set(json=json)
    from potstill.cache.shelf import Shelf
    from potstill.cache.store import Store

    shelf = Shelf(folder)
    paths = [*map(shelf.find, names or [row["name"] for row in shelf.rows()])]
    whole = {path.name: Store.at(path).verify() for path in paths}
    SCREEN.result("\n".join(f"{name}: {n:,} records, all whole" for name, n in whole.items()) or "no caches", whole)


@app.command("rm")
def rm(names: Names, folder: Folder = None, json: o.Json = False) -> None:
    """Delete caches. A later run makes what it needs anew.

    \b
      potstill cache rm 3f2a
    """
    SCREEN.set(json=json)
    from potstill.cache.shelf import EXAMS, Shelf, size

    shelf = Shelf(folder)
    found = [name if name == EXAMS else shelf.find(name).name for name in names]
    freed = {name: shelf.remove(name) for name in found}
    SCREEN.result("\n".join(f"{name}: {size(n)} freed" for name, n in freed.items()), freed)
