"""Settings under which a recipe fits on a card, whatever its prompts are, from the shapes of its models alone."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from typing import Any

from rlaif_dpo.models.cards import Card
from rlaif_dpo.models.memory import Memory
from rlaif_dpo.models.shapes import Shapes
from rlaif_dpo.pipeline import roles
from rlaif_dpo.pipeline.advice import changed
from rlaif_dpo.pipeline.hours import Phases
from rlaif_dpo.pipeline.preflight import PhasePlan
from rlaif_dpo.pipeline.stage_memory import stage_memory
from rlaif_dpo.recipe import Recipe

SHARE = 0.9
"""Of a card, what a new recipe may take: a screen needs some of it, and no estimate was measured on a card yet."""
SHORT, LONG = 16, 2048
"""Tokens of the shortest and of the longest prompt that is reckoned with."""
OVERHEAD = 2048
"""Tokens of what a critic or a judge is asked beside the prompt and the answers: example dialogues, a principle, the question."""
LENGTHS, BUDGETS = (1024, 768, 512), (16384, 8192, 4096, 2048)
SAMPLING = ("10-revise", "30-pairs", "50-evaluate")


def fitted(recipe: Recipe, models: Mapping[str, Shapes], card: Card) -> Recipe | None:
    """The recipe with settings that fit, or None where nothing does.

    Tried in order of harm: smaller batches in memory (the batch of an optimiser step stays), layers that are recomputed, a base
    in 4 bits, and last shorter rows.

    Args:
        recipe: What shall fit.
        models: Shapes by the name that roles call a local model by; the base is `same`.
        card: Where.
    """
    for length, quantization in product(LENGTHS, ("none", "nf4")):
        tried = changed(recipe, {"model.quantization": quantization, "sft.max_length": length, "dpo.max_length": length})
        for stages, ladder in (
            (SAMPLING, [{"model.max_batch_tokens": budget} for budget in BUDGETS]),
            (("20-sft",), list(_training("sft", recipe.sft.batch_size))),
            (("40-dpo",), list(_training("dpo", recipe.dpo.batch_size))),
        ):
            found = next((step for step in ladder if _fits(changed(tried, step), models, card, stages)), None)
            if found is None:
                break
            tried = changed(tried, found)
        else:
            return tried
    return None


def worst_memory(recipe: Recipe, models: Mapping[str, Shapes], card: Card) -> tuple[Memory, ...]:
    """The memory of each stage with the worst of the prompts that are reckoned with, those of `SHORT` and of `LONG` tokens."""
    return stage_memory(recipe, models, worst_phases(recipe), card)


def worst_phases(recipe: Recipe) -> Phases:
    """Phases whose rows are as long as they may be, and whose batches have the widest rows and the most of them."""
    rooms = {
        "revise": recipe.revise.max_new_tokens,
        "pairs": recipe.pairs.max_new_tokens,
        "evaluate": recipe.evaluate.max_new_tokens,
    }
    if not roles.learns_from_labels(recipe):
        del rooms["pairs"]
    if (sampled := roles.rollouts(recipe)) is not None:
        rooms[recipe.optimizer] = sampled.max_new_tokens
    return {
        phase: PhasePlan(
            prompts=getattr(recipe.prompts, phase, recipe.prompts.pairs), mean_tokens=SHORT, max_tokens=LONG, too_long=0, tight=0,
            over_length=0, generations=0, judge_passes=0, reward_passes=0, judge_tokens=0, tokens=0, room=room, overhead=OVERHEAD,
        )
        for phase, room in rooms.items()
    }  # fmt: skip


def _training(section: str, batch: int) -> Iterator[dict[str, Any]]:
    for checkpointing in (False, True):
        for micro in range(batch, 0, -1):
            if batch % micro == 0:
                yield {f"{section}.micro_batch_size": micro, f"{section}.gradient_checkpointing": checkpointing}


def _fits(recipe: Recipe, models: Mapping[str, Shapes], card: Card, stages: Sequence[str]) -> bool:
    memory = worst_memory(recipe, models, card)
    return all(stage.total <= SHARE * card.memory for stage in memory if stage.stage in stages)
