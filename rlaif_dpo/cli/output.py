"""How results are printed: JSON for programs, aligned columns for people."""

import json
import shutil
import sys
import textwrap
from collections.abc import Sequence
from typing import Annotated

import typer

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
RecipeArgument = Annotated[
    str, typer.Argument(metavar="RECIPE", help="A shipped recipe's name or a YAML file.", show_default=False)
]
Overrides = Annotated[
    list[str] | None, typer.Argument(metavar="KEY=VALUE", help="Settings to change, e.g. dpo.beta=0.2.", show_default=False)
]
RunArgument = Annotated[str, typer.Argument(metavar="RUN", help="A run's folder, e.g. runs/quickstart.", show_default=False)]
Root = Annotated[str, typer.Option(help="The folder of runs.")]
LEAST_ROOM = 20  # columns: narrower text is left to the terminal


def print_json(value: object) -> None:
    typer.echo(json.dumps(value, ensure_ascii=False, indent=2))


def print_table(rows: Sequence[Sequence[object]]) -> None:
    """Columns as wide as their widest cell, two spaces apart; in a terminal the last one is wrapped within itself."""
    cells = [["" if cell is None else str(cell) for cell in row] for row in rows]
    widths = [max(len(row[i]) for row in cells) for i in range(len(cells[0]))] if cells else []
    start = sum(width + 2 for width in widths[:-1])
    room = shutil.get_terminal_size().columns - start if sys.stdout.isatty() else 0
    for row in cells:
        line = "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        first, *more = (textwrap.wrap(line[start:], room) if room >= LEAST_ROOM else ()) or [line[start:]]
        typer.echo(line[:start] + first)
        for part in more:
            typer.echo(" " * start + part)
