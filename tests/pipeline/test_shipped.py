"""Every shipped recipe for a real model fits on the card that its comment names, in the memory that it names."""

import re
from pathlib import Path

import pytest

from rlaif_dpo.files import write_jsonl
from rlaif_dpo.models.cards import named_card
from rlaif_dpo.models.known import known_shapes
from rlaif_dpo.pipeline.draft import planned
from rlaif_dpo.pipeline.fitting import worst_memory
from rlaif_dpo.pipeline.preflight import plan
from rlaif_dpo.pipeline.stage_memory import USABLE
from rlaif_dpo.recipe import ShippedRecipe, list_recipes, load_recipe
from tests.models.families import without_weights

SHIPPED = [recipe for recipe in list_recipes() if load_recipe(recipe.path).model.path != "sandbox"]
LINE = re.compile(r"^# Planned for (\S+): (.+), with prompts of up to 2,048 tokens\.$", re.MULTILINE)


def comment(recipe: ShippedRecipe) -> tuple[str, str]:
    """The card and the memory in a recipe's comment."""
    found = LINE.search(recipe.path.read_text(encoding="utf-8"))
    assert found is not None, f"{recipe.path} names no card"
    return found[1], found[2]


@pytest.mark.parametrize("recipe", SHIPPED, ids=lambda recipe: recipe.name)
def test_the_comment_names_the_planned_memory(recipe: ShippedRecipe) -> None:
    settings, (name, said) = load_recipe(recipe.path), comment(recipe)
    card, shapes = named_card(name), known_shapes(settings.model.path)
    assert shapes is not None
    memory = worst_memory(settings, {"same": shapes}, card)
    assert planned(memory, card) == said
    assert max(stage.total for stage in memory) <= USABLE * card.memory


@pytest.mark.parametrize("recipe", SHIPPED, ids=lambda recipe: recipe.name)
def test_it_plans_green(recipe: ShippedRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the config of its model, a tokenizer of its family, and prompts of 10 to 2,000 bytes, which are as many tokens."""
    model, mine = load_recipe(recipe.path).model.path, tmp_path / "mine.jsonl"
    write_jsonl(mine, ({"prompt": f"Question {n}? {'abcdefg ' * (n % 240)}"} for n in range(300)))
    changes = (f"model.path={without_weights(tmp_path, model)}", f"prompts.source={mine}", "prompts.column=prompt")
    counts = ("prompts.paired_column=null", "prompts.revise=80", "prompts.pairs=80", "prompts.evaluate=80")
    settings = load_recipe(recipe.path, (*changes, *counts))
    for endpoint in settings.endpoints.values():
        if endpoint.api_key_env is not None:
            monkeypatch.setenv(endpoint.api_key_env, "a-key")
    found = plan(settings, tmp_path, comment(recipe)[0])
    assert found.advice is not None and found.advice.fits, found.advice
    assert max(phase.max_tokens for phase in found.phases.values()) > 1500
    worst = max(stage.total for stage in found.advice.memory)
    assert worst <= float(re.findall(r"[\d.]+", comment(recipe)[1])[0]) * 2**30 * 1.01
    assert all(bill.usd is not None for bill in found.cost.bills if bill.endpoint in settings.endpoints)


def test_the_seed_case_is_as_large_as_it_says() -> None:
    recipe = load_recipe("telehealth")
    assert recipe.prompts.revise == 2000 and recipe.revise.rounds == 3
    assert recipe.prompts.pairs * recipe.pairs.per_prompt == 10_000
    assert all(endpoint.price is not None for endpoint in recipe.endpoints.values()) and recipe.judge.model in recipe.endpoints
