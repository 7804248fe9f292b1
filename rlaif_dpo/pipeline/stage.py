"""What a stage of a run is, what it works with, and where the files lie that stages share."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from rlaif_dpo.constitution.schema import Constitution
from rlaif_dpo.engines.base import FINAL, Engine
from rlaif_dpo.errors import UserError
from rlaif_dpo.files import read_jsonl
from rlaif_dpo.judges.journal import is_settled
from rlaif_dpo.models.source import model_folder
from rlaif_dpo.pipeline import roles
from rlaif_dpo.pipeline.directory import RunDirectory
from rlaif_dpo.pipeline.keys import Ingredients, constitution_ingredients, file_ingredient, recipe_ingredients
from rlaif_dpo.pipeline.launch import Launch
from rlaif_dpo.pipeline.pool import ModelPool
from rlaif_dpo.progress import Progress
from rlaif_dpo.prompts.rows import PromptRow
from rlaif_dpo.prompts.stored import prompt_of
from rlaif_dpo.recipe.schema import Recipe
from rlaif_dpo.seeding import content_hash
from rlaif_dpo.shipped import name_of

if TYPE_CHECKING:
    from rlaif_dpo.train.loop import Tracking

PROMPTS = "prompts.jsonl"
START_ADAPTER, ANCHOR_ADAPTER = "05-start/adapter", "06-anchor/adapter"
REVISED, DRAFTS = "10-revise/sft.jsonl", "10-revise/drafts.jsonl"
SFT_ADAPTER = "20-sft/adapter"
PREFERENCES = "30-pairs/preferences.jsonl"
REWARD_ADAPTER, REWARD_CARD = "40-reward/adapter", "40-reward/card.json"
ADAPTERS = {"dpo": "40-dpo/adapter", "ppo": "41-ppo/adapter", "grpo": "41-grpo/adapter", "rloo": "41-rloo/adapter"}
"""What each optimizer trains."""
SUITES = "55-suites/suites.json"
PHASES = ("revise", "pairs", "evaluate")
Counts = dict[str, int]


@dataclass(frozen=True)
class Context:
    """What a stage works with."""

    recipe: Recipe
    constitution: Constitution
    directory: RunDirectory
    pool: ModelPool
    progress: Progress
    launch: Launch | None = None

    @property
    def tracking(self) -> "Tracking":
        from rlaif_dpo.train.loop import Tracking

        return Tracking(self.recipe.trackers, self.recipe.name)

    def micro_batch(self, stage: str) -> Callable[..., None]:
        """Keeps in the run's events how many rows of `stage` are in memory at once, whenever that changes."""
        return partial(self.directory.event, "micro-batch", stage)

    def prompts(self, phase: str) -> list[PromptRow]:
        return read_prompts(self.directory.path / PROMPTS, phase)


@dataclass(frozen=True)
class Stage:
    """One step of a run.

    Attributes:
        name: Its folder in the run directory.
        version: Raised when the code makes another result from the same ingredients.
        sections: The recipe sections and single settings that it reads.
        perform: Does the work; returns what it made and dropped.
        outputs: Its files, relative to the run directory.
        phase: The phase whose prompts it reads.
        principles: The phase of the constitution it reads, or "all".
        but: Settings in `sections` that leave its result alone.
        inputs: The files it reads, relative to the run directory.
        asks: The models it asks, by the names that the recipe calls them by. A local one counts with its weights, a server with
            its URL and its model.
        outside: The other paths outside the run it reads; those that exist count with their content.
        also: What else its result depends on, by name, from the recipe and the run directory.
        journals: The files in its folder whose rows are a model's answers or a judge's, and may have failed.
        spreads: Whether `--accelerate` has several processes do it.
    """

    name: str
    version: int
    sections: tuple[str, ...]
    perform: Callable[[Context], Counts]
    outputs: tuple[str, ...]
    phase: str | None = None
    principles: str | None = None
    but: tuple[str, ...] = ()
    inputs: Callable[[Recipe], Iterable[str]] = lambda recipe: ()
    asks: Callable[[Recipe], Iterable[str]] = lambda recipe: ()
    outside: Callable[[Recipe], Iterable[str | Path]] = lambda recipe: ()
    also: Callable[[Recipe, Path], Ingredients] = lambda recipe, run: {}
    journals: tuple[str, ...] = ()
    spreads: bool = False

    def failed_rows(self, folder: Path) -> int:
        """Rows of the journals whose request failed, and was not had later."""
        failed: set[tuple[str, str]] = set()
        for name in self.journals:
            for row in read_jsonl(folder / name):
                settled = is_settled(row) if "verdicts" in row else row["outcome"] in FINAL
                (failed.discard if settled else failed.add)((name, row["id"]))
        return len(failed)

    def ingredients(self, recipe: Recipe, constitution: Constitution, run: Path) -> Ingredients:
        """Exactly what the result depends on, by name."""
        found: Ingredients = {"stage version": self.version, "seed": recipe.seed} | self.also(recipe, run)
        found |= recipe_ingredients(recipe, self.sections, self.but)
        if self.principles:
            found |= constitution_ingredients(constitution, self.principles)
        if self.phase:
            rows = [row for row in read_jsonl(run / PROMPTS) if row["phase"] == self.phase]
            found[f"prompts of {self.phase}"] = content_hash(repr(rows))
        found |= {f"file {name}": file_ingredient(run / name) for name in self.inputs(recipe)}
        asked = set(self.asks(recipe))
        for name, endpoint in roles.endpoints(recipe, asked).items():
            found[f"endpoint {name}"] = [endpoint.urls[0], endpoint.model, endpoint.votes]
        outside = {f"content of model {name}": model_folder(name) for name in roles.local(recipe, asked)}
        outside |= {f"content of {name_of(Path(path))}": Path(path) for path in self.outside(recipe)}
        return found | {what: file_ingredient(path) for what, path in outside.items() if path.exists()}


def read_prompts(path: Path, phase: str) -> list[PromptRow]:
    """The prompts of a phase from a run's `prompts.jsonl`."""
    return [prompt_of(row) for row in read_jsonl(path) if row["phase"] == phase]


def check_fits(engine: Engine, prompts: Sequence[PromptRow]) -> None:
    """Refuse prompts none of which leaves room for an answer.

    Raises:
        UserError: Not one fits the context.
    """
    if not any(engine.count_tokens(row.messages) < engine.context_length for row in prompts):
        raise UserError(
            f"every one of the {len(prompts)} prompts is longer than the context of {engine.name} "
            f"({engine.context_length} tokens); use shorter prompts or another model"
        )


def policies_of(optimizer: str) -> dict[str, str | None]:
    """The policies of a run by name, the last one the final one, with their adapters relative to the run directory."""
    return {"base": None, "sft": SFT_ADAPTER, optimizer: ADAPTERS[optimizer]}


def adapters_of(recipe: Recipe) -> list[str]:
    """The adapters of a run's policies, relative to the run directory."""
    return [adapter for adapter in policies_of(recipe.optimizer).values() if adapter]


def trained(run: Path, optimizer: str) -> dict[str, Path | None]:
    """The policies of a run that are there by now, base first, with their adapters."""
    adapters = {policy: run / adapter if adapter else None for policy, adapter in policies_of(optimizer).items()}
    return {policy: adapter for policy, adapter in adapters.items() if adapter is None or adapter.is_dir()}
