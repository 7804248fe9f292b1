"""Does a run fit on a card, and what to change if it does not."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, product
from typing import TYPE_CHECKING, Any

from rlaif_dpo.judges.build import member_settings
from rlaif_dpo.models.cards import Card
from rlaif_dpo.models.memory import Memory, Placed, adapter_parameters, generation_memory, scoring_memory, training_memory
from rlaif_dpo.models.shapes import Shapes
from rlaif_dpo.pipeline import roles
from rlaif_dpo.pipeline.hours import Phases, Work, stage_work, trained_length
from rlaif_dpo.recipe import Recipe
from rlaif_dpo.recipe.training import Training

if TYPE_CHECKING:
    from rlaif_dpo.pipeline.preflight import PhasePlan

USABLE = 0.95
"""Share of a card's memory that tensors can fill: the rest is lost between the allocator's blocks. Assumed."""


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
    over = [stage for stage in memory if not _fits(stage, card)]
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
            "adapters": 2 * 4 * trained,  # SFT and DPO, float32
            "checkpoints while training": 2 * (4 + 4 + 8) * trained,  # two: policy, reference, Adam
            "a merged model in 16 bits": 2 * models["same"].parameters,
        },
    )


def stage_memory(recipe: Recipe, models: Mapping[str, Shapes], phases: Phases, card: Card) -> tuple[Memory, ...]:
    """The memory of each stage that computes. Guests (another critic, other judges) lie beside the base while they are asked."""
    dtype, nf4 = card.dtype(recipe.model.dtype), recipe.model.quantization == "nf4"
    placed = {name: Placed(shapes, dtype, nf4, card.cuda) for name, shapes in models.items()}
    base, trained = placed["same"], adapter_parameters(models["same"], recipe.lora)
    budget = (
        1 if recipe.model.engine == "vllm" else recipe.model.max_batch_tokens
    )  # it needs room for a row, and takes all there is
    models_asked = [judge for judge in member_settings(recipe.judge) if judge.kind != "human"]
    own = [judge.model_copy(update={"model": "same"}) if judge.model in roles.OWN else judge for judge in models_asked]
    judges = [judge for judge in own if judge.model in placed]
    names = {judge.model for judge in judges}

    def writing(stage: str, name: str, phase: "PhasePlan", prompt: int, new: int, adapters: int = 0) -> Memory:
        # A batch of long prompts has the longer pass over them, one of short prompts more rows.
        room = max(1, placed[name].shapes.context - new)
        sizes = (min(prompt, room), min(math.ceil(phase.mean_tokens), room))
        return max((generation_memory(stage, placed[name], budget, size, new, adapters) for size in sizes), key=_total)

    def beside(name: str, names: set[str]) -> int:
        """Weights of all that lies in memory while `name` works: the base and the guests."""
        return sum(placed[other].weights for other in (names | {"same"}) - {name})

    def judging(stage: str, phase: "PhasePlan", new: int, adapters: int) -> Iterator[Memory]:
        for judge in judges:
            prompt = min(phase.max_tokens + 2 * new + phase.overhead, placed[judge.model].shapes.context)
            found = scoring_memory(stage, placed[judge.model], budget, prompt)
            if judge.reasoning == "cot" or judge.kind == "additive":
                found = max(found, writing(stage, judge.model, phase, prompt, judge.rationale_tokens), key=_total)
            yield found.and_also(adapters=4 * adapters, weights=beside(judge.model, names))

    revise, pairs = phases["revise"], phases["pairs"]
    writers = {"same", recipe.revise.drafter, recipe.revise.critic} & placed.keys()
    asked = revise.max_tokens + 2 * recipe.revise.max_new_tokens + revise.overhead  # a revision shows the reply and its critique
    drafts = [
        writing("10-revise", name, revise, asked, recipe.revise.max_new_tokens).and_also(weights=beside(name, writers))
        for name in sorted(writers)
    ]
    found = [max(drafts, key=_total), _training("20-sft", base, recipe, recipe.sft, revise, 1, card)]
    answering = [
        ("30-pairs", pairs, recipe.pairs.max_new_tokens, trained),
        ("50-evaluate", phases["evaluate"], recipe.evaluate.max_new_tokens, 2 * trained),
    ]
    if "suites" in phases:
        answering.append(("55-suites", phases["suites"], recipe.evaluate.max_new_tokens, 2 * trained))
    for stage, phase, new, adapters in answering:
        answers = writing(stage, "same", phase, phase.max_tokens, new, adapters).and_also(weights=beside("same", names))
        found.append(max([answers, *judging(stage, phase, new, adapters)], key=_total))
    found.insert(3, _training("40-dpo", base, recipe, recipe.dpo, pairs, 2, card))
    return tuple(found)


def _training(
    stage: str, base: Placed, recipe: Recipe, settings: Training, phase: "PhasePlan", answers: int, card: Card
) -> Memory:
    """Of a micro-batch of the recipe's size; with `auto`, of the largest that fits."""
    length = trained_length(settings, phase, base.shapes.context)
    auto = settings.micro_batch_size == "auto"
    sizes = [n for n in range(settings.batch_size, 0, -1) if settings.batch_size % n == 0] if auto else [settings.rows_at_once]
    for size in sizes:
        of_size, prompt = settings.model_copy(update={"micro_batch_size": size}), length - min(phase.room, length)
        memory = training_memory(stage, base, recipe.lora, of_size, length, answers, prompt)
        if _fits(memory, card):
            break
    return memory


def smallest_changes(
    recipe: Recipe, memory_of: Callable[[Recipe], tuple[Memory, ...]], phases: Phases, card: Card
) -> dict[str, Any] | None:
    """The settings that make every stage fit, or None where these do not suffice.

    Few changes before many, and among as many, those that harm less: the micro-batch (which changes nothing but speed), the
    length, the rank, checkpointing (speed), 4 bits. Batches of answers are made smaller where only sampling does not fit.
    """
    changes: dict[str, Any] = {}
    for index, stage in enumerate(memory_of(recipe)):
        if _fits(memory_of(recipe)[index], card):
            continue
        found = next(
            (
                chosen
                for chosen in _combinations(_ladder(stage.stage, recipe, phases))
                if _fits(memory_of(changed(recipe, chosen))[index], card)
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
    vllm = recipe.model.engine == "vllm"
    four_bits = [("model.quantization", ["nf4"])] if recipe.model.quantization == "none" and not vllm else []
    sections: dict[str, tuple[str, Training, str]] = {
        "20-sft": ("sft", recipe.sft, "revise"),
        "40-dpo": ("dpo", recipe.dpo, "pairs"),
    }
    if stage not in sections:
        budget = recipe.model.max_batch_tokens
        smaller = [] if vllm else [budget >> n for n in range(1, 6) if budget >> n >= 256]
        return [("model.max_batch_tokens", smaller), *four_bits]
    section, settings, phase = sections[stage]
    batch, longest = settings.batch_size, phases[phase].max_tokens + phases[phase].room
    micro = [] if settings.micro_batch_size == "auto" else [n for n in range(settings.rows_at_once - 1, 0, -1) if batch % n == 0]
    length = [min(settings.max_length, longest) * share // 4 for share in (3, 2)]
    rank = [recipe.lora.r // share for share in (2, 4) if recipe.lora.r // share >= 4]
    ladder: list[tuple[str, list[Any]]] = [
        (f"{section}.micro_batch_size", micro),
        (f"{section}.max_length", length),
        ("lora.r", rank),
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


def _fits(memory: Memory, card: Card) -> bool:
    return memory.total <= USABLE * card.memory


def _total(memory: Memory) -> int:
    return memory.total
