"""`rlaif-dpo recipes`."""

from pathlib import Path
from typing import Annotated

import typer

from rlaif_dpo.cli.output import Json, Overrides, RecipeArgument, print_json, print_table
from rlaif_dpo.errors import UserError, did_you_mean

recipes = typer.Typer(help="Shipped recipes: list, print, copy.", no_args_is_help=True)


@recipes.command("ls")
def list_shipped(json: Json = False) -> None:
    """List the shipped recipes."""
    from rlaif_dpo.recipe import list_recipes

    shipped = list_recipes()
    if json:
        print_json([{"name": recipe.name, "path": str(recipe.path), "summary": recipe.summary} for recipe in shipped])
    else:
        print_table([(recipe.name, recipe.summary) for recipe in shipped])


@recipes.command("show")
def show(
    recipe: RecipeArgument,
    overrides: Overrides = None,
    resolved: Annotated[bool, typer.Option("--resolved", help="Every key with its default.")] = False,
    json: Json = False,
) -> None:
    """Print a recipe with every key explained."""
    from rlaif_dpo.recipe import load_recipe
    from rlaif_dpo.recipe import show as explain

    settings = load_recipe(recipe, overrides or ())
    if json:
        print_json(settings.model_dump(mode="json", exclude_unset=not resolved))
    else:
        typer.echo(explain(settings, resolved), nl=False)


@recipes.command("cp")
def copy(
    name: Annotated[str, typer.Argument(help="A shipped recipe.", show_default=False)],
    to: Annotated[Path, typer.Argument(help="The new file.", show_default=False)],
) -> None:
    """Copy a shipped recipe to a file of yours."""
    from rlaif_dpo.recipe import list_recipes

    shipped = {recipe.name: recipe.path for recipe in list_recipes()}
    if name not in shipped:
        raise UserError(f'There is no shipped recipe "{name}".{did_you_mean(name, shipped)}')
    target = to / f"{Path(name).name}.yaml" if to.is_dir() else to
    if target.exists():
        raise UserError(f"{target} is there already; remove it or give another name")
    try:
        target.write_bytes(shipped[name].read_bytes())
    except OSError as error:
        raise UserError(f"{target} cannot be written ({error.strerror}); give another place") from None
    typer.echo(f"{target}: edit it, then rlaif-dpo validate {target}")
