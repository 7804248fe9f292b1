"""Does a run fit on a card, and what to change if it does not."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, product
from typing import Any

from rlaif_dpo.models.cards import Card
from rlaif_dpo.models.memory import Memory, adapter_parameters
from rlaif_dpo.models.shapes import Shapes
from rlaif_dpo.pipeline.hours import Phases, Work, stage_work
from rlaif_dpo.pipeline.stage_memory import fits, stage_memory
from rlaif_dpo.recipe import Recipe
from rlaif_dpo.recipe.training import Grpo, Ppo, Training


@dataclass(frozen=True)
class Advice:
    """How a recipe stands to a card.

    Attributes:
        card: Its name.
        available: Bytes that a process can have there.
        dtype: The compute type there.
        memory: Of every stage that computes.
        fits: Every stage fits.
        changes: Settings that make it fit, `key=value`; empty where it fits, or where none of them suffices.
        work: Of every stage that computes.
        disk: Bytes by what takes them.
    """

    card: str
    available: int
    dtype: str
    memory: tuple[Memory, ...]
    fits: bool
    changes: tuple[str, ...]
    work: tuple[Work, ...]
    disk: Mapping[str, int]


def advise(recipe: Recipe, models: Mapping[str, Shapes], phases: Phases, card: Card) -> Advice:
    """Advice on a recipe.

    Args:
        recipe: The run.
        models: Shapes by the name that roles call a local model by; the base is `same`.
        phases: Prompts and their lengths.
        card: Where it would run.

    Raises:
        UserError: `lora.target_modules` does not fit the model.
    """
    memory = stage_memory(recipe, models, phases, card)
    over = [stage for stage in memory if not fits(stage, card)]
    changes = smallest_changes(recipe, lambda changed: stage_memory(changed, models, phases, card), phases, card) if over else {}
    trained = adapter_parameters(models["same"], recipe.lora)
    return Advice(
        card=card.name,
        available=card.memory,
        dtype=card.dtype(recipe.model.dtype),
        memory=memory,
        fits=not over,
        changes=tuple(f"{key}={str(value).lower()}" for key, value in (changes or {}).items()),
        work=stage_work(recipe, models["same"], phases, card),
        disk={
            "adapters": sum(stage.parts["optimiser"] > 0 for stage in memory) * 4 * trained,  # one of each that trains, float32
            # Two at once: of DPO and GRPO policy, reference and Adam; of PPO policy, value and Adam for both.
            "checkpoints while training": 2 * (4 + 4 + (16 if recipe.optimizer == "ppo" else 8)) * trained,
            "a merged model in 16 bits": 2 * models["same"].parameters,
        },
    )


def smallest_changes(
    recipe: Recipe, memory_of: Callable[[Recipe], tuple[Memory, ...]], phases: Phases, card: Card
) -> dict[str, Any] | None:
    """The settings that make every stage fit, or None where these do not suffice.

    Few changes before many, and among as many, those that harm less: the micro-batch and the batches of answers that are sampled
    (which change nothing but speed), the length, the rank, checkpointing (speed), 4 bits.
    """
    changes: dict[str, Any] = {}
    for index, stage in enumerate(memory_of(recipe)):
        if fits(memory_of(recipe)[index], card):
            continue
        found = next(
            (
                chosen
                for chosen in _combinations(_ladder(stage.stage, recipe, phases))
                if fits(memory_of(changed(recipe, chosen))[index], card)
            ),
            None,
        )
        if found is None:
            return None
        changes |= found
        recipe = changed(recipe, found)
    return changes


def _ladder(stage: str, recipe: Recipe, phases: Phases) -> list[tuple[str, list[Any]]]:
    """What may be changed for a stage, from the least harmful to the most, each from little to much."""
    budget, vllm = recipe.model.max_batch_tokens, recipe.model.engine == "vllm"
    smaller = [] if vllm else [budget >> n for n in range(1, 6) if budget >> n >= 256]
    sampled: tuple[str, list[Any]] = ("model.max_batch_tokens", smaller)
    fewer_bits = ["nf4"] if recipe.model.quantization == "none" and not vllm else []
    four_bits: list[tuple[str, list[Any]]] = [("model.quantization", fewer_bits)]
    trained: dict[str, tuple[str, Training | Ppo | Grpo]] = {
        "20-sft": ("sft", recipe.sft),
        "40-dpo": ("dpo", recipe.dpo),
        "40-reward": ("reward", recipe.reward),
        "41-ppo": ("ppo", recipe.ppo),
        "41-grpo": ("grpo", recipe.grpo),
        "41-rloo": ("grpo", recipe.grpo),
    }
    if stage not in trained:
        ladder = [sampled, *four_bits]
    else:
        section, settings = trained[stage]
        batch = settings.minibatch_size if isinstance(settings, Ppo) else settings.batch_size
        at_once = settings.micro_batch_size or batch
        micro = [n for n in range(at_once - 1, 0, -1) if batch % n == 0] if isinstance(at_once, int) else []
        if isinstance(settings, Training):
            phase = phases["revise" if stage == "20-sft" else "pairs"]
            shorter, longest = "max_length", min(settings.max_length, phase.max_tokens + phase.room)
        else:
            shorter, longest = "max_new_tokens", settings.max_new_tokens
        ladder = [
            (f"{section}.micro_batch_size", micro),
            *([] if isinstance(settings, Training) else [sampled]),
            (f"{section}.{shorter}", [longest * share // 4 for share in (3, 2)]),
            ("lora.r", [recipe.lora.r // share for share in (2, 4) if recipe.lora.r // share >= 4]),
            (f"{section}.gradient_checkpointing", [] if settings.gradient_checkpointing else [True]),
            *four_bits,
        ]
    return [(key, values) for key, values in ladder if values]


def _combinations(ladder: Sequence[tuple[str, list[Any]]]) -> Iterator[dict[str, Any]]:
    for count in range(1, len(ladder) + 1):
        for knobs in combinations(ladder, count):
            # The least harmful setting of them moves fastest.
            for values in product(*(values for _, values in reversed(knobs))):
                yield dict(zip((key for key, _ in knobs), reversed(values), strict=True))


def changed(recipe: Recipe, changes: Mapping[str, Any]) -> Recipe:
    """The recipe with `section.key` values replaced."""
    for key, value in changes.items():
        section, _, name = key.partition(".")
        recipe = recipe.model_copy(update={section: getattr(recipe, section).model_copy(update={name: value})})
    return recipe
