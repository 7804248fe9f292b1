"""The memory of each stage of a recipe that computes, at its worst instant, from the shapes of its models."""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from rlaif_dpo.judges.build import member_settings
from rlaif_dpo.models.cards import Card
from rlaif_dpo.models.memory import (
    Memory,
    Placed,
    adapter_parameters,
    generation_memory,
    reward_scoring_memory,
    scoring_memory,
    training_memory,
)
from rlaif_dpo.models.memory_roles import ppo_memory, reward_memory
from rlaif_dpo.models.shapes import Shapes
from rlaif_dpo.pipeline import roles
from rlaif_dpo.pipeline.hours import Phases, trained_length
from rlaif_dpo.recipe import Recipe
from rlaif_dpo.recipe.schema import JudgeSettings
from rlaif_dpo.recipe.training import Grpo, Optimisation, Ppo, Training

if TYPE_CHECKING:
    from rlaif_dpo.pipeline.preflight import PhasePlan

USABLE = 0.95
"""Share of a card's memory that tensors can fill: the rest is lost between the allocator's blocks. Assumed."""

S = TypeVar("S", bound=Optimisation)


def fits(memory: Memory, card: Card) -> bool:
    """Whether a stage fits on a card."""
    return memory.total <= USABLE * card.memory


def stage_memory(recipe: Recipe, models: Mapping[str, Shapes], phases: Phases, card: Card) -> tuple[Memory, ...]:
    """The memory of each stage that computes. Guests (another critic, other judges) lie beside the base while they are asked."""
    dtype, nf4 = card.dtype(recipe.model.dtype), recipe.model.quantization == "nf4"
    placed = {name: Placed(shapes, dtype, nf4, card.cuda) for name, shapes in models.items()}
    run = _Run(recipe, placed, card)
    found = [run.revising(phases["revise"]), run.training("20-sft", recipe.sft, phases["revise"], 1)]
    if "pairs" in phases:
        found.append(run.answering("30-pairs", phases["pairs"], recipe.pairs.max_new_tokens, run.adapter))
    if recipe.optimizer == "dpo":
        found.append(run.training("40-dpo", recipe.dpo, phases["pairs"], 2))
    elif "pairs" in phases:
        found.append(run.reward(phases["pairs"]))
    if (sampled := roles.rollouts(recipe)) is not None:
        found.append(run.rollouts(sampled, phases[recipe.optimizer]))
    for stage, phase in (("50-evaluate", "evaluate"), ("55-suites", "suites")):
        if phase in phases:
            found.append(run.answering(stage, phases[phase], recipe.evaluate.max_new_tokens, 2 * run.adapter))
    return tuple(found)


@dataclass(frozen=True)
class _Run:
    """A recipe with its models as they lie on a card."""

    recipe: Recipe
    placed: Mapping[str, Placed]
    card: Card

    @property
    def adapter(self) -> int:
        """Weights of an adapter."""
        return adapter_parameters(self.placed["same"].shapes, self.recipe.lora)

    def revising(self, phase: "PhasePlan") -> Memory:
        """Drafts, critiques and revisions; a revision shows the reply and its critique."""
        settings = self.recipe.revise
        writers = {"same", settings.drafter, settings.critic} & self.placed.keys()
        asked = phase.max_tokens + 2 * settings.max_new_tokens + phase.overhead
        drafts = [
            self._writing("10-revise", name, phase, asked, settings.max_new_tokens).and_also(weights=self._beside(name, writers))
            for name in sorted(writers)
        ]
        return max(drafts, key=_total)

    def training(self, stage: str, settings: Training, phase: "PhasePlan", answers: int) -> Memory:
        """SFT and DPO."""
        base = self.placed["same"]
        length = trained_length(settings, phase, base.shapes.context)
        prompt = length - min(phase.room, length)
        return self._largest(
            settings, lambda tried: training_memory(stage, base, self.recipe.lora, tried, length, answers, prompt)
        )

    def reward(self, phase: "PhasePlan") -> Memory:
        """The reward model."""
        base, settings = self.placed["same"], self.recipe.reward
        length = trained_length(settings, phase, base.shapes.context)
        return self._largest(settings, lambda tried: reward_memory("40-reward", base, self.recipe.lora, tried, length))

    def answering(self, stage: str, phase: "PhasePlan", new: int, adapters: int) -> Memory:
        """Answers, and the judges' view of them, with so many weights of adapters."""
        guests = self._beside("same", {judge.model for judge in self._judges})
        answers = self._writing(stage, "same", phase, phase.max_tokens, new, adapters).and_also(weights=guests)
        return max([answers, *self._judging(stage, phase, new, adapters)], key=_total)

    def rollouts(self, settings: Ppo | Grpo, phase: "PhasePlan") -> Memory:
        """PPO, GRPO and RLOO: answers are sampled, scored by what rewards them, and learned from.

        Every role is there from the first answer to the last, and so are the optimiser's moments and a judge that rewards. The
        gradients are there while something is learned.
        """
        recipe, base, stage = self.recipe, self.placed["same"], f"41-{self.recipe.optimizer}"
        ppo, new, model = isinstance(settings, Ppo), settings.max_new_tokens, roles.model_rewards(recipe)
        adapters = ((3 if ppo else 2) + model) * self.adapter  # policy, reference and PPO's value; the reward
        prompt = max(1, min(phase.max_tokens, min(settings.max_length, base.shapes.context) - new))
        asks = roles.judge_rewards(recipe)
        guests = self._beside("same", {judge.model for judge in self._judges}) if asks else 0
        answered = [self._writing(stage, "same", phase, prompt, new, adapters).and_also(weights=guests)]
        if model:
            scored = reward_scoring_memory(stage, base, recipe.model.max_batch_tokens, prompt + new, adapters)
            answered.append(scored.and_also(weights=guests))
        if asks:
            answered += self._judging(stage, phase, new, adapters)
        answered = [instant.and_also(optimiser=(2 if ppo else 1) * 8 * self.adapter) for instant in answered]
        learned = self._learning(stage, settings, prompt, prompt + new)
        others = 4 * adapters - learned.parts["adapters"]
        return max([*answered, learned.and_also(weights=guests, adapters=others)], key=_total)

    def _learning(self, stage: str, settings: Ppo | Grpo, prompt: int, length: int) -> Memory:
        base, lora = self.placed["same"], self.recipe.lora
        if isinstance(settings, Ppo):
            return ppo_memory(stage, base, lora, settings, length)
        still = lora.model_copy(update={"dropout": 0.0})  # dropout is off
        return self._largest(settings, lambda tried: training_memory(stage, base, still, tried, length, 1, prompt))

    @property
    def _judges(self) -> list[JudgeSettings]:
        """Those that are asked on this machine; the run's own model is `same`, whatever adapter it judges with."""
        models_asked = [judge for judge in member_settings(self.recipe.judge) if judge.kind != "human"]
        own = [judge.model_copy(update={"model": "same"}) if judge.model in roles.OWN else judge for judge in models_asked]
        return [judge for judge in own if judge.model in self.placed]

    def _judging(self, stage: str, phase: "PhasePlan", new: int, adapters: int) -> Iterator[Memory]:
        names, budget = {judge.model for judge in self._judges}, self._budget(stage)
        for judge in self._judges:
            prompt = min(phase.max_tokens + 2 * new + phase.overhead, self.placed[judge.model].shapes.context)
            found = scoring_memory(stage, self.placed[judge.model], budget, prompt)
            if judge.reasoning == "cot" or judge.kind == "additive":
                found = max(found, self._writing(stage, judge.model, phase, prompt, judge.rationale_tokens), key=_total)
            yield found.and_also(adapters=4 * adapters, weights=self._beside(judge.model, names))

    def _writing(self, stage: str, name: str, phase: "PhasePlan", prompt: int, new: int, adapters: int = 0) -> Memory:
        """A batch of long prompts has the longer pass over them, one of short prompts more rows."""
        budget, room = self._budget(stage), max(1, self.placed[name].shapes.context - new)
        sizes = (min(prompt, room), min(math.ceil(phase.mean_tokens), room))
        return max((generation_memory(stage, self.placed[name], budget, size, new, adapters) for size in sizes), key=_total)

    def _budget(self, stage: str) -> int:
        """Tokens at once. vLLM needs room for a row and takes all there is; while something is trained it is not there."""
        vllm = self.recipe.model.engine == "vllm" and not stage.startswith("41")
        return 1 if vllm else self.recipe.model.max_batch_tokens

    def _beside(self, name: str, names: set[str]) -> int:
        """Weights of all that lies in memory while `name` works: the base and the guests."""
        return sum(self.placed[other].weights for other in (names | {"same"}) - {name})

    def _largest(self, settings: S, memory_of: Callable[[S], Memory]) -> Memory:
        """Of a micro-batch of the recipe's size; with `auto`, of the largest that fits."""
        auto, batch = settings.micro_batch_size == "auto", settings.batch_size
        for size in [n for n in range(batch, 0, -1) if batch % n == 0] if auto else [settings.rows_at_once]:
            memory = memory_of(settings.model_copy(update={"micro_batch_size": size}))
            if fits(memory, self.card):
                break
        return memory


def _total(memory: Memory) -> int:
    return memory.total
