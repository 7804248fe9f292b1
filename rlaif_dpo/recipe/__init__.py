"""The recipe: a strict, typed YAML file that holds every setting of a run."""

from rlaif_dpo.recipe.emit import dump_recipe, show
from rlaif_dpo.recipe.keys import json_schema
from rlaif_dpo.recipe.load import load_recipe
from rlaif_dpo.recipe.schema import Recipe
from rlaif_dpo.recipe.shipped import ShippedRecipe, list_recipes

__all__ = ["Recipe", "ShippedRecipe", "dump_recipe", "json_schema", "list_recipes", "load_recipe", "show"]
