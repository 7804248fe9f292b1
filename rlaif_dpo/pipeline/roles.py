"""Which models and endpoints a recipe calls, by the names it calls them by."""

from collections.abc import Iterable

from rlaif_dpo.judges.build import asks_model, member_settings
from rlaif_dpo.recipe.schema import Endpoint, Recipe
from rlaif_dpo.recipe.training import Grpo, Ppo

OWN = {"same", "policy"}
"""The run's own model: without an adapter, and with that of SFT."""


def critics(recipe: Recipe) -> set[str]:
    """The names behind phase 1 but for `same`."""
    return {recipe.revise.drafter, recipe.revise.critic} - OWN


def judges(recipe: Recipe) -> set[str]:
    """The names behind the labels but for the run's own; people have none, nor have rules that ask nobody."""
    return {judge.model for judge in member_settings(recipe.judge) if asks_model(judge)} - OWN


def judges_itself(recipe: Recipe) -> bool:
    """Whether the policy judges its own answers."""
    return any(judge.model == "policy" and asks_model(judge) for judge in member_settings(recipe.judge))


def learns_from_labels(recipe: Recipe) -> bool:
    """Whether the optimizer uses preferences, itself or by a reward model of them."""
    return recipe.optimizer in ("dpo", "ppo") or recipe.grpo.rewards.model > 0


def preference_sets(recipe: Recipe) -> list[str]:
    """The sets of preferences from elsewhere that become pairs."""
    return [source for source in (recipe.pairs.human.source, recipe.pairs.import_.source) if source is not None]


def reads_phase_1(recipe: Recipe) -> bool:
    """Whether the pairs depend on phase 1's rows: they are its revisions, or must not be about its prompts."""
    return recipe.pairs.builders.revision_over_draft > 0 or bool(preference_sets(recipe))


def judge_labels(recipe: Recipe) -> bool:
    """Whether the judge labels pairs: it compares their answers, or a rulebook that is the judge ranks them."""
    builders = recipe.pairs.builders
    return bool(builders.judged or (builders.rbr_ladder and recipe.judge.kind == "rules"))


def rollouts(recipe: Recipe) -> Ppo | Grpo | None:
    """The section of an optimizer that learns from sampled answers; None for DPO."""
    if recipe.optimizer == "dpo":
        return None
    return recipe.ppo if recipe.optimizer == "ppo" else recipe.grpo


def model_rewards(recipe: Recipe) -> bool:
    """Whether a reward model rewards sampled answers."""
    return recipe.optimizer != "dpo" and learns_from_labels(recipe)


def judge_rewards(recipe: Recipe) -> bool:
    """Whether the judge itself rewards sampled answers."""
    return recipe.optimizer in ("grpo", "rloo") and recipe.grpo.rewards.judge > 0


def onlooker(recipe: Recipe) -> str | None:
    """The judge that looks on while the policy learns; None where there is none."""
    if recipe.optimizer == "dpo":
        return recipe.dpo.looks.held_out_judge if recipe.dpo.looks.times else None
    return (recipe.ppo if recipe.optimizer == "ppo" else recipe.grpo).held_out_judge


def rewards_by_score(recipe: Recipe) -> bool:
    """Whether a judge that rewards scores each answer by itself; otherwise it compares it with one of the SFT model."""
    return recipe.judge.kind == "score" and not recipe.judge.committee


def suites(recipe: Recipe) -> set[str]:
    """The names behind what is said of the answers to behaviour suites, but for `same`."""
    asked = recipe.evaluate.refusal_judge
    return judges(recipe) | ({asked} - OWN if asked is not None else set())


def everyone(recipe: Recipe) -> set[str]:
    """All names but for the run's own."""
    others = {name for name in (recipe.iteration.judge, onlooker(recipe)) if name is not None}
    return critics(recipe) | suites(recipe) | (others - OWN)


def local(recipe: Recipe, names: Iterable[str]) -> set[str]:
    """Those of `names` that are models on this machine."""
    return set(names) - recipe.endpoints.keys()


def endpoints(recipe: Recipe, names: Iterable[str]) -> dict[str, Endpoint]:
    """Those of `names` that are servers."""
    return {name: recipe.endpoints[name] for name in sorted(set(names) & recipe.endpoints.keys())}
