"""How long the stages of a run take on a card: a range, from its peak speeds and the shares of them that are assumed here."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rlaif_dpo.models.cards import Card
from rlaif_dpo.models.memory import Placed
from rlaif_dpo.models.shapes import Shapes
from rlaif_dpo.pipeline import roles
from rlaif_dpo.recipe import Recipe
from rlaif_dpo.recipe.training import Grpo, Optimisation, Ppo, Training

if TYPE_CHECKING:
    from rlaif_dpo.pipeline.preflight import PhasePlan

Phases = Mapping[str, "PhasePlan"]
SHORT = 0.3
"""Of the room for an answer, what a short one takes: the lower end of the hours."""
# Assumed, not measured, each at its best and at its worst:
UTILISATION, NF4_UTILISATION = (0.5, 0.2), (0.4, 0.12)
"""The share of a card's peak operations that training and passes over prompts reach, on a 16-bit base and on a 4-bit one."""
BANDWIDTH, LAUNCH = (0.75, 0.35), (0.4e-3, 1.5e-3)
"""The share of its bandwidth that decoding reaches, and the seconds to launch the kernels of a layer."""


@dataclass(frozen=True)
class Work:
    """What a stage does.

    Attributes:
        stage: Its name.
        steps: Optimiser steps; 0 where nothing is trained.
        tokens: Read and written, at most.
        hours: From best to worst; None where the speed of the card is not known.
    """

    stage: str
    steps: int
    tokens: int
    hours: tuple[float, float] | None


def trained_length(settings: Training, phase: "PhasePlan", context: int) -> int:
    """Tokens of the longest row that can be made, within `max_length`: of the longest prompt and answer, or of a judgment."""
    return min(settings.max_length, context, max(phase.max_tokens + phase.room, phase.judge_row))


def stage_work(recipe: Recipe, shapes: Shapes, phases: Phases, card: Card) -> tuple[Work, ...]:
    """Steps, tokens and hours of each stage that computes; judges as large as the base."""
    sft_rows = phases["revise"].prompts * (recipe.revise.rounds if recipe.revise.keep_revisions == "all" else 1)
    speed = _Speed(recipe, shapes, card)
    works = [
        speed.inference("10-revise", phases["revise"]),
        speed.training("20-sft", recipe.sft, sft_rows + recipe.revise.helpfulness.rows, phases["revise"], 1),
    ]
    if (pairs := phases.get("pairs")) is not None:
        works.append(speed.inference("30-pairs", pairs))
        if recipe.optimizer == "dpo":
            works.append(speed.training("40-dpo", recipe.dpo, pairs.rows, pairs, 2, reference=True))
        else:
            works.append(speed.training("40-reward", recipe.reward, pairs.rows, pairs, 2))
    if (sampled := roles.rollouts(recipe)) is not None:
        works.append(speed.rollouts(f"41-{recipe.optimizer}", sampled, phases[recipe.optimizer]))
    works.append(speed.inference("50-evaluate", phases["evaluate"]))
    if "suites" in phases:
        works.append(speed.inference("55-suites", phases["suites"]))
    return tuple(works)


class _Speed:
    """Hours from a card's peak: training and prompt passes by its operations, decoding by its memory and launches."""

    def __init__(self, recipe: Recipe, shapes: Shapes, card: Card) -> None:
        self._recipe, self._shapes, self._card = recipe, shapes, card
        nf4 = recipe.model.quantization == "nf4"
        self._placed = Placed(shapes, card.dtype(recipe.model.dtype), nf4, card.cuda)
        self._utilisation = NF4_UTILISATION if nf4 else UTILISATION

    def training(
        self, stage: str, settings: Training, rows: int, phase: "PhasePlan", answers: int, reference: bool = False
    ) -> Work:
        longest = trained_length(settings, phase, self._shapes.context)
        lengths = [min(phase.mean_tokens + share * phase.room, longest) for share in (SHORT, 1)]
        # A reference goes forward once, before the first pass.
        passes = _passes_of_step(settings) * settings.epochs + (2 if reference else 0)
        hours = self._range(lambda n: passes * self._once(rows * answers * lengths[n], lengths[n], n))
        steps = math.ceil(rows / settings.batch_size) * settings.epochs
        return Work(stage, steps, round(rows * answers * lengths[1] * settings.epochs), hours)

    def rollouts(self, stage: str, settings: Ppo | Grpo, phase: "PhasePlan") -> Work:
        """Each update's answers are sampled and scored, measured under every role that is not the reward, and learned from."""
        sampled = settings.updates * settings.batch_size
        lengths = [phase.mean_tokens + share * phase.room for share in (SHORT, 1)]
        if isinstance(settings, Ppo):  # policy, reference and value; policy and value are learned
            epochs, steps = settings.epochs, settings.batch_size // settings.minibatch_size
            passes = 2 * 3 + 2 * epochs * _passes_of_step(settings)
        else:
            epochs = steps = 1
            passes = 2 * 2 + _passes_of_step(settings)
        writing = self._writing(phase, [phase.generations - sampled, *[settings.batch_size] * settings.updates])
        hours = self._range(lambda n: writing(n) + passes * self._once(sampled * lengths[n], lengths[n], n))
        return Work(stage, settings.updates * epochs * steps, phase.tokens + round(epochs * sampled * lengths[1]), hours)

    def inference(self, stage: str, phase: "PhasePlan") -> Work:
        return Work(stage, 0, phase.tokens, self._range(self._writing(phase, [phase.generations])))

    def _writing(self, phase: "PhasePlan", parts: Sequence[int]) -> Callable[[int], float]:
        """Seconds to read what is read and to write the answers, in batches none of which has answers of two `parts`."""
        s, budget, length = self._shapes, self._recipe.model.max_batch_tokens, phase.mean_tokens + phase.room
        batches = sum(math.ceil(answers * length / budget) for answers in parts)
        cache = 2 * s.key * s.layers * self._placed.size * budget / 2  # half full on average

        def seconds(n: int) -> float:
            step = (self._placed.weights + cache) / (BANDWIDTH[n] * 1e9 * (self._card.bandwidth or 1)) + s.layers * LAUNCH[n]
            read = 2 * self._once(phase.tokens - phase.generations * phase.room, phase.mean_tokens, n)
            return read + batches * phase.room * (SHORT, 1)[n] * step

        return seconds

    def _once(self, tokens: float, length: float, n: int) -> float:
        """Seconds of half a forward pass over so many tokens, in rows of `length`."""
        return tokens * self._per_pass(length) / (self._utilisation[n] * 1e12 * (self._card.tflops or 1))

    def _per_pass(self, length: float) -> float:
        """Half the operations of a forward pass, a token: every weight once, and half the sequence attended to."""
        s = self._shapes
        return s.linear_weights + s.vocabulary * s.hidden + s.layers * s.query * length

    def _range(self, seconds: Callable[[int], float]) -> tuple[float, float] | None:
        if self._card.tflops is None or self._card.bandwidth is None:
            return None
        return seconds(0) / 3600, seconds(1) / 3600


def _passes_of_step(settings: Optimisation) -> int:
    """Operations a weight and token: forward and backward to the activations (the base has no weight gradients) are 2 + 2, and
    checkpointing goes forward twice.
    """
    return 6 if settings.gradient_checkpointing else 4
