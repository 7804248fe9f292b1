"""How long the stages of a run take on a card: a range, from its peak speeds and the shares of them that are assumed here."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rlaif_dpo.models.cards import Card
from rlaif_dpo.models.memory import Placed
from rlaif_dpo.models.shapes import Shapes
from rlaif_dpo.recipe import Recipe
from rlaif_dpo.recipe.training import Training

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
    rows = {"sft": sft_rows + recipe.revise.helpfulness.rows, "dpo": phases["pairs"].rows}
    speed = _Speed(recipe, shapes, card)
    return (
        speed.inference("10-revise", phases["revise"]),
        speed.training("20-sft", recipe.sft, rows["sft"], phases["revise"], 1),
        speed.inference("30-pairs", phases["pairs"]),
        speed.training("40-dpo", recipe.dpo, rows["dpo"], phases["pairs"], 2),
        speed.inference("50-evaluate", phases["evaluate"]),
        *([speed.inference("55-suites", phases["suites"])] if "suites" in phases else []),
    )


class _Speed:
    """Hours from a card's peak: training and prompt passes by its operations, decoding by its memory and launches."""

    def __init__(self, recipe: Recipe, shapes: Shapes, card: Card) -> None:
        self._recipe, self._shapes, self._card = recipe, shapes, card
        nf4 = recipe.model.quantization == "nf4"
        self._placed = Placed(shapes, card.dtype(recipe.model.dtype), nf4, card.cuda)
        self._utilisation = NF4_UTILISATION if nf4 else UTILISATION

    def training(self, stage: str, settings: Training, rows: int, phase: "PhasePlan", answers: int) -> Work:
        mean = phase.mean_tokens
        longest = trained_length(settings, phase, self._shapes.context)
        lengths = [min(mean + share * phase.room, longest) * answers for share in (SHORT, 1)]
        # Forward, and backward to the activations (the base has no weight gradients): 2 + 2 operations a weight; checkpointing
        # goes forward twice. The reference of DPO goes forward once, before the first pass.
        passes = (6 if settings.gradient_checkpointing else 4) * settings.epochs + (2 if answers == 2 else 0)
        hours = self._range(lambda n: passes * rows * lengths[n] * self._per_pass(lengths[n] / answers) / self._operations(n))
        steps = math.ceil(rows / settings.batch_size) * settings.epochs
        return Work(stage, steps, round(rows * lengths[1] * settings.epochs), hours)

    def inference(self, stage: str, phase: "PhasePlan") -> Work:
        s, budget = self._shapes, self._recipe.model.max_batch_tokens
        written = phase.generations * phase.room
        batches = math.ceil(phase.generations * (phase.mean_tokens + phase.room) / budget)
        cache = 2 * s.key * s.layers * self._placed.size * budget / 2  # half full on average

        def seconds(n: int) -> float:
            read = 2 * (phase.tokens - written) * self._per_pass(phase.mean_tokens) / self._operations(n)
            step = (self._placed.weights + cache) / (BANDWIDTH[n] * 1e9 * (self._card.bandwidth or 1)) + s.layers * LAUNCH[n]
            return read + batches * phase.room * (SHORT, 1)[n] * step

        return Work(stage, 0, phase.tokens, self._range(seconds))

    def _per_pass(self, length: float) -> float:
        """Half the operations of a forward pass, a token: every weight once, and half the sequence attended to."""
        s = self._shapes
        return s.linear_weights + s.vocabulary * s.hidden + s.layers * s.query * length

    def _operations(self, n: int) -> float:
        return self._utilisation[n] * 1e12 * (self._card.tflops or 1)

    def _range(self, seconds: Callable[[int], float]) -> tuple[float, float] | None:
        if self._card.tflops is None or self._card.bandwidth is None:
            return None
        return seconds(0) / 3600, seconds(1) / 3600
