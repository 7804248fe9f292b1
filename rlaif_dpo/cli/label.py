"""`rlaif-dpo label`."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rlaif_dpo.errors import UserError

if TYPE_CHECKING:
    from rich.console import Console

    from rlaif_dpo.judges.base import Comparison

WIDTH = 80
KEYS = "1 first   2 second   = equal   s skip   q quit"
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def label(
    source: Annotated[
        str,
        typer.Argument(
            metavar="RUN|FILE", help="A run's folder, or a file with prompt, chosen and rejected.", show_default=False
        ),
    ],
    out: Annotated[
        Path | None, typer.Option(help="Where the labels go: a JSONL file, added to; by default labels.jsonl beside SOURCE.")
    ] = None,
    annotator: Annotated[str, typer.Option(help="Your name, if several people label.")] = "",
    count: Annotated[int | None, typer.Option(min=1, help="Only this many pairs, drawn by the seed.")] = None,
    seed: Annotated[int, typer.Option(help="Of the order of pairs and sides.")] = 0,
    sheet: Annotated[Path | None, typer.Option(help="Write a CSV or JSONL sheet to fill in elsewhere, and ask nothing.")] = None,
) -> None:
    """Compare pairs of answers yourself.

    Pairs and sides come in a random order, and nothing says who wrote what. Every answer is kept as it is given.
    The labels serve as `judge.labels` or `judge.gold` of a recipe.
    """
    from rich.console import Console

    from rlaif_dpo.judges.labels import export_for_labelling
    from rlaif_dpo.pairs.human import read_comparisons
    from rlaif_dpo.seeding import derive_rng

    given = Path(source)
    file = given / "30-pairs" / "preferences.jsonl" if given.is_dir() else given
    if given.is_dir() and not file.is_file():
        raise UserError(f"{source} has no preferences yet; run its recipe until 30-pairs, or name a file of pairs")
    comparisons, _ = read_comparisons(str(file))
    derive_rng(seed, "label").shuffle(comparisons)
    comparisons = comparisons[:count]
    if sheet is not None:
        export_for_labelling(comparisons, sheet, seed)
        typer.echo(
            f"{sheet}: {len(comparisons)} pairs. Fill in its column `label` with a, b or tie, and leave its key beside it."
        )
        return
    path = out or (given if given.is_dir() else given.parent) / "labels.jsonl"
    code = 0
    try:
        ask_in_terminal(comparisons, Console(width=WIDTH, highlight=False), path, annotator, seed)
    except KeyboardInterrupt:
        code = 130
    typer.echo(f"\nThe labels are in {path}; the same command goes on where you stopped.")
    raise typer.Exit(code)


def ask_in_terminal(
    comparisons: Sequence["Comparison"], console: "Console", path: Path, annotator: str = "", seed: int = 0
) -> int:
    """Ask about each comparison that `annotator` has no label for in `path`; how many were answered.

    Each answer is a row of `path`, flushed before the next question: prompt, a (the first reply), b, label, id and annotator. A
    pair that is skipped comes again next time. The end of the input ends the round.
    """
    from rlaif_dpo.files import JsonlWriter, read_jsonl
    from rlaif_dpo.judges.labels import question_of, side_drawn

    done = {row["id"] for row in read_jsonl(path) if row["annotator"] == annotator}
    left = [comparison for comparison in comparisons if comparison.id not in done]
    answered = 0
    with JsonlWriter(path) as writer:
        for number, comparison in enumerate(left, start=len(comparisons) - len(left) + 1):
            swapped = side_drawn(comparison, seed)
            _show(console, comparison, swapped, f"{number} of {len(comparisons)}", question_of(comparison))
            key = _key(console)
            if key == "q":
                break
            if key == "s":
                continue
            said = "tie" if key == "=" else "a" if (key == "1") != swapped else "b"
            row = {"id": comparison.id, "prompt": list(comparison.messages), "a": comparison.first, "b": comparison.second}
            writer.write({**row, "label": said, "annotator": annotator})
            answered += 1
    return answered


def _key(console: "Console") -> str:
    while True:
        try:
            key = console.input(f"{KEYS} > ", markup=False).strip().lower()[:1]
        except EOFError:
            return "q"
        if key in tuple("12=sq"):
            return key


def _show(console: "Console", comparison: "Comparison", swapped: bool, place: str, question: str) -> None:
    """Print one pair. Control characters of the texts are left out: a terminal would obey them."""
    from rich.padding import Padding
    from rich.text import Text

    from rlaif_dpo.messages import transcript

    replies = (comparison.second, comparison.first) if swapped else (comparison.first, comparison.second)
    console.rule(place, characters="-", style="none", align="right")
    for title, text in (("", transcript(comparison.messages)), ("Reply 1", replies[0]), ("Reply 2", replies[1])):
        console.print(Text(title))
        console.print(Padding(Text(CONTROL.sub("", text)), (0, 0, 0, 2), expand=False))
    console.print(Text(f"\n{question}"))
