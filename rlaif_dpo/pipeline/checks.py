"""What can be refused before anything heavy is imported: the same for `validate`, `plan` and `run`."""

from pathlib import Path

from rlaif_dpo.constitution import Constitution, lint
from rlaif_dpo.errors import UserError, did_you_mean
from rlaif_dpo.judges.build import check_judge, member_settings
from rlaif_dpo.models.source import model_source
from rlaif_dpo.prompts.sources import SUFFIXES
from rlaif_dpo.recipe import Recipe
from rlaif_dpo.revise.few_shot import few_shot_path, shipped_few_shot


def check_recipe(recipe: Recipe, constitution: Constitution) -> None:
    """Refuse a recipe that cannot work, as far as its files show.

    Raises:
        UserError: A constitution with an error, a model that is not there or has no weights, prompts that are not there.
    """
    for finding in lint(constitution):
        if finding.level == "error":
            raise UserError(f"constitution {recipe.constitution}: {finding.sentence}")
    check_judge(recipe.judge)
    judges = (judge.model for judge in member_settings(recipe.judge) if judge.kind != "human")
    for path in {recipe.model.path, recipe.revise.critic, *judges} - {"same"}:
        model_source(path)
    for key, source in (
        ("prompts.source", recipe.prompts.source),
        ("revise.helpfulness.source", recipe.revise.helpfulness.source),
    ):
        if source is not None and source.endswith(SUFFIXES) and not Path(source).is_file():
            raise UserError(f"There is no file {source}; check `{key}`.")
    examples = recipe.revise.few_shot
    if examples is not None and not few_shot_path(examples).is_file():
        raise UserError(f"There is no file {examples}; check `revise.few_shot`.{did_you_mean(examples, shipped_few_shot())}")
