"""`rlaif-dpo try`."""

import textwrap
from typing import Annotated

import typer

from rlaif_dpo.cli.output import Json, Overrides, RecipeArgument, print_json, print_table


def tryout(
    recipe: RecipeArgument,
    prompt: Annotated[str, typer.Argument(help="A user's message, in quotes.", show_default=False)],
    overrides: Overrides = None,
    principle: Annotated[list[str] | None, typer.Option(help="Use only this principle; may be given again.")] = None,
    tag: Annotated[list[str] | None, typer.Option(help="A tag of the prompt; may be given again.")] = None,
    json: Json = False,
) -> None:
    """The whole method on one prompt.

    Prints a draft, its critiques and revisions, and one judged pair.
    """
    from rlaif_dpo.pipeline import try_recipe
    from rlaif_dpo.recipe import load_recipe

    found = try_recipe(load_recipe(recipe, overrides or ()), prompt, principle or (), tag or ())
    if json:
        print_json(found.as_json())
        return
    _paragraph("prompt", found.prompt)
    _paragraph("draft", found.draft)
    before = found.draft
    for number, step in enumerate(found.steps, start=1):
        _paragraph(f"critique {number}, {step['principle_id']}", step["error"] or step["critique"])
        _paragraph(f"revision {number}", step["after"] if step["after"] != before else "(unchanged)")
        before = step["after"]
    other = "the last revision" if found.first == before and before != found.draft else "a second draft"
    if other == "a second draft":
        _paragraph(other, found.first)
    judgment = found.judgment
    if judgment.p is None:
        typer.echo(f"The judge could not compare {other} with the draft: {judgment.error}")
        return
    typer.echo(f"P({other} is better than the draft) = {judgment.p:.3f}, by {judgment.judge}")
    print_table(
        [("principle", "p", "position logit")]
        + [
            (
                verdict.principle_id,
                "-" if verdict.p is None else f"{verdict.p:.3f}",
                "-" if verdict.position_logit is None else f"{verdict.position_logit:+.2f}",
            )
            for verdict in judgment.verdicts
        ]
    )


def _paragraph(title: str, text: str) -> None:
    typer.secho(title, bold=True)
    lines = [line for part in (text or "(empty)").splitlines() for line in textwrap.wrap(part, 76) or [""]]
    typer.echo("\n".join(f"  {line}" for line in lines) + "\n")
