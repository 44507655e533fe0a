"""Commands for what teachers said, kept on disk: cache ls, cache verify, cache rm."""

from typing import Annotated

import typer

from potstill.commands import options as o
from potstill.commands.screen import SCREEN, columns

Names = Annotated[
    list[str], typer.Argument(metavar="NAME...", help="Of caches, or the beginning of it.", show_default=False)
]
Folder = Annotated[str | None, typer.Option("--dir", metavar="FOLDER", help="Where they lie [$POTSTILL_CACHE]")]

app = typer.Typer(
    help="What teachers said of training pictures, kept on disk.", no_args_is_help=True, rich_markup_mode=None
)


@app.command("ls")
def ls(folder: Folder = None, json: o.Json = False) -> None:
    """List the caches: what each holds, its size, how much of it is filled.

    \b
      potstill cache ls
    """
    SCREEN.set(json=json)
    from potstill.cache.shelf import Shelf, size

    rows = Shelf(folder).rows()
    cells = [
        (
            row["name"],
            row["teacher"],
            row["views"],
            f"{row['samples']:,}",
            size(row["bytes"]),
            f"{100 * row['filled']:.0f} %",
            ", ".join(f"{spot} {kind}" for spot, kind in row["spots"].items()),
        )
        for row in rows
    ]
    heads = ("name", "teacher", "views", "pictures", "size", "filled", "holds")
    SCREEN.result(columns(cells, heads) if cells else "no caches", rows)


@app.command("verify")
def verify(names: Names, folder: Folder = None, json: o.Json = False) -> None:
    """Read caches whole and hold every record against its checksum; exit code 3 where one is damaged.

    \b
      potstill cache verify 3f2a
    """
    SCREEN.set(json=json)
    from potstill.cache.shelf import Shelf
    from potstill.cache.store import Store

    shelf = Shelf(folder)
    whole = {path.name: Store.at(path).verify() for path in map(shelf.find, names)}
    SCREEN.result("\n".join(f"{name}: {n:,} records, all whole" for name, n in whole.items()), whole)


@app.command("rm")
def rm(names: Names, folder: Folder = None, json: o.Json = False) -> None:
    """Delete caches. A later run makes what it needs anew.

    \b
      potstill cache rm 3f2a
    """
    SCREEN.set(json=json)
    from potstill.cache.shelf import Shelf, size

    shelf = Shelf(folder)
    freed = {path.name: shelf.remove(path.name) for path in map(shelf.find, names)}
    SCREEN.result("\n".join(f"{name}: {size(n)} freed" for name, n in freed.items()), freed)
