"""The stages of a run, in order: each a function from its recipe sections and input files to output files."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from rlaif_dpo.errors import UserError, did_you_mean
from rlaif_dpo.evaluate.suites import shipped_suites
from rlaif_dpo.judges.build import judge_files
from rlaif_dpo.pipeline import perform, roles
from rlaif_dpo.pipeline.gate import AUDIT, needs_audit, treatment_ingredient
from rlaif_dpo.pipeline.keys import ENGINE, Ingredients, file_ingredient
from rlaif_dpo.pipeline.stage import (
    ADAPTERS,
    ANCHOR_ADAPTER,
    DRAFTS,
    PREFERENCES,
    PROMPTS,
    REVISED,
    REWARD_ADAPTER,
    REWARD_CARD,
    SFT_ADAPTER,
    START_ADAPTER,
    SUITES,
    Stage,
    adapters_of,
)
from rlaif_dpo.pipeline.truth import has_gold
from rlaif_dpo.recipe.schema import Recipe
from rlaif_dpo.revise.few_shot import few_shot_path

AUDIT_ONLY = ("judge.gold", "judge.audit_pairs", "judge.accept")
"""Settings of the judge that its labels do not depend on."""
OF_META = ("pairs.builders.meta_judged", "pairs.length_tier")
"""Settings of Meta-Rewarding, which count where they are used: pairs without them are what they were."""
OF_SUITES = (
    "evaluate.suites", "evaluate.external", "evaluate.suites_asked", "evaluate.system_prompt", "evaluate.refusal_judge",
)  # fmt: skip
"""Settings that are about behaviour suites alone."""

SHARED = (
    Stage(
        name="00-prompts",
        version=1,
        sections=("prompts",),
        but=("prompts.twin_threshold",),
        outside=lambda recipe: (recipe.prompts.source,),
        also=lambda recipe, run: _of_split(recipe),
        perform=perform.prompts,
        outputs=(PROMPTS,),
    ),
    Stage(
        name="05-start",
        version=1,
        sections=(),
        also=lambda recipe, run: _start_ingredient(recipe.start.adapter),
        perform=partial(perform.adopt, "05-start", "adapter"),
        outputs=(START_ADAPTER,),
    ),
    Stage(
        name="06-anchor",
        version=1,
        sections=(),
        also=lambda recipe, run: _start_ingredient(recipe.start.anchor),
        perform=partial(perform.adopt, "06-anchor", "anchor"),
        outputs=(ANCHOR_ADAPTER,),
    ),
    Stage(
        name="10-revise",
        version=1,
        sections=("model", "revise"),
        phase="revise",
        principles="revise",
        inputs=lambda recipe: (START_ADAPTER,) if recipe.start.adapter is not None else (),
        asks=lambda recipe: {recipe.model.path} | roles.critics(recipe),
        outside=lambda recipe: (
            *((few_shot_path(examples),) if (examples := recipe.revise.few_shot) else ()),
            *((source,) if (source := recipe.revise.helpfulness.source) else ()),
        ),
        perform=perform.revise,
        outputs=(REVISED,),
        journals=("drafts.jsonl", "critiques.jsonl", "revisions.jsonl"),
    ),
    Stage(
        name="20-sft",
        version=1,
        sections=("model", "lora", "sft"),
        but=(ENGINE,),
        inputs=lambda recipe: (REVISED, *((START_ADAPTER,) if recipe.start.adapter is not None else ())),
        asks=lambda recipe: {recipe.model.path},
        perform=perform.sft,
        outputs=(SFT_ADAPTER,),
        spreads=True,
    ),
    Stage(
        name="25-audit",
        version=1,
        sections=("model", "judge", "pairs.temperature", "pairs.max_new_tokens"),
        but=("judge.accept", "judge.saturation", "judge.clamp", "judge.temperature"),
        principles="judge",
        inputs=lambda recipe: _audited(recipe),
        asks=lambda recipe: {recipe.model.path} | roles.judges(recipe),
        outside=lambda recipe: (*judge_files(recipe.judge), *((gold,) if (gold := recipe.judge.gold) else ())),
        also=lambda recipe, run: {} if needs_audit(recipe) else {"audit": "nothing rests on it"},
        perform=perform.audit,
        outputs=(AUDIT,),
        journals=("candidates.jsonl", "judgments.jsonl", "repeats.jsonl"),
    ),
    Stage(
        name="30-pairs",
        version=1,
        sections=("model", "pairs", "judge"),
        but=(*AUDIT_ONLY, *OF_META),
        phase="pairs",
        principles="judge",
        inputs=lambda recipe: (
            SFT_ADAPTER,
            *((DRAFTS, REVISED) if roles.reads_phase_1(recipe) else ()),
            *((ANCHOR_ADAPTER,) if recipe.start.anchor is not None else ()),
        ),
        asks=lambda recipe: {recipe.model.path} | roles.judges(recipe),
        outside=lambda recipe: (*judge_files(recipe.judge), *roles.preference_sets(recipe)),
        also=lambda recipe, run: treatment_ingredient(recipe.judge, run) | _of_meta(recipe),
        perform=perform.pairs,
        outputs=(PREFERENCES,),
        journals=(
            "candidates.jsonl",
            "anchors.jsonl",
            "judgments.jsonl",
            "meta_judgments.jsonl",
            "contrasts.jsonl",
            "grades.jsonl",
        ),
    ),
)
"""The stages before the optimizer, in a run that begins with an adapter and has a phase 1."""
ADOPTED = Stage(
    name="20-sft",
    version=1,
    sections=(),
    also=lambda recipe, run: _start_ingredient(recipe.start.adapter),
    perform=partial(perform.adopt, "20-sft", "adapter"),
    outputs=(SFT_ADAPTER,),
)
"""In the place of SFT where a run begins with pairs."""
DPO = Stage(
    name="40-dpo",
    version=1,
    sections=("model", "dpo"),
    but=(ENGINE,),
    phase="pairs",
    principles="judge",
    inputs=lambda recipe: (SFT_ADAPTER, PREFERENCES),
    asks=lambda recipe: {recipe.model.path} | _onlooker(recipe),
    perform=perform.dpo,
    outputs=(ADAPTERS["dpo"], "40-dpo/health.json"),
    spreads=True,
)
REWARD = Stage(
    name="40-reward",
    version=1,
    sections=("model", "reward"),
    but=(ENGINE,),
    inputs=lambda recipe: (SFT_ADAPTER, PREFERENCES),
    asks=lambda recipe: {recipe.model.path},
    perform=perform.reward,
    outputs=(REWARD_ADAPTER, REWARD_CARD),
)
PPO = Stage(
    name="41-ppo",
    version=1,
    sections=("model", "ppo"),
    but=(ENGINE,),
    phase="pairs",
    principles="judge",
    inputs=lambda recipe: (SFT_ADAPTER, REWARD_ADAPTER),
    asks=lambda recipe: {recipe.model.path} | _onlooker(recipe),
    perform=perform.ppo,
    outputs=(ADAPTERS["ppo"], "41-ppo/health.json"),
)
GRPO = Stage(
    name="41-grpo",
    version=1,
    sections=("model", "grpo", "judge"),
    but=(*AUDIT_ONLY, ENGINE),
    phase="pairs",
    principles="judge",
    inputs=lambda recipe: (SFT_ADAPTER, *((REWARD_ADAPTER,) if recipe.grpo.rewards.model else ())),
    asks=lambda recipe: {recipe.model.path} | roles.judges(recipe) | _onlooker(recipe),
    outside=lambda recipe: judge_files(recipe.judge),
    also=lambda recipe, run: treatment_ingredient(recipe.judge, run),
    perform=perform.grpo,
    outputs=(ADAPTERS["grpo"], "41-grpo/health.json"),
)
RLOO = replace(GRPO, name="41-rloo", outputs=(ADAPTERS["rloo"], "41-rloo/health.json"))
OPTIMIZERS = {"dpo": (DPO,), "ppo": (REWARD, PPO), "grpo": (REWARD, GRPO), "rloo": (REWARD, RLOO)}
"""The stages of each optimizer; the last one's first output is the adapter of the policy, which has the optimizer's name."""
EVALUATE = Stage(
    name="50-evaluate",
    version=2,
    sections=("model", "judge", "evaluate"),
    but=(*AUDIT_ONLY, *OF_SUITES),
    phase="evaluate",
    principles="judge",
    inputs=lambda recipe: adapters_of(recipe),
    asks=lambda recipe: {recipe.model.path} | roles.judges(recipe),
    outside=lambda recipe: judge_files(recipe.judge),
    also=lambda recipe, run: treatment_ingredient(recipe.judge, run),
    perform=perform.evaluate,
    outputs=("50-evaluate/results.json",),
    journals=("answers.jsonl", "judgments.jsonl"),
)
SUITES_STAGE = Stage(
    name="55-suites",
    version=1,
    sections=("model", "judge", "evaluate"),
    but=(*AUDIT_ONLY, "evaluate.temperature"),
    principles="all",
    inputs=lambda recipe: adapters_of(recipe),
    asks=lambda recipe: {recipe.model.path} | roles.suites(recipe),
    outside=lambda recipe: (
        *judge_files(recipe.judge),
        *(shipped_suites().get(name, name) for name in recipe.evaluate.suites),
        *(suite.source for suite in recipe.evaluate.external),
    ),
    also=lambda recipe, run: treatment_ingredient(recipe.judge, run),
    perform=perform.suites,
    outputs=(SUITES,),
    journals=("answers.jsonl", "judgments.jsonl"),
)
REPORT = "report"
"""Not a stage with a key: it takes seconds and is written anew whenever a run reaches its end."""


def _onlooker(recipe: Recipe) -> set[str]:
    return {name for name in (roles.onlooker(recipe),) if name is not None} - roles.OWN


def _of_split(recipe: Recipe) -> Ingredients:
    """What the split hangs on beside `prompts`, where it does."""
    twins, rounds = recipe.prompts.twin_threshold, [recipe.round, recipe.rounds, recipe.iteration.sft]
    of_twins = {} if twins is None else {"prompts.twin_threshold": twins}
    return of_twins | ({"round": rounds} if recipe.rounds > 1 else {})


def _of_meta(recipe: Recipe) -> Ingredients:
    meta, tier = recipe.pairs.builders.meta_judged, recipe.pairs.length_tier
    return ({OF_META[0]: meta} if meta else {}) | ({} if tier is None else {OF_META[1]: tier})


def stages_of(recipe: Recipe) -> tuple[Stage, ...]:
    """The stages of a run of `recipe`, in order: labels where something learns from them, suites where it names some."""
    unused = set() if roles.learns_from_labels(recipe) else {"30-pairs", "40-reward"}
    if recipe.start.adapter is None or not recipe.start.revise:
        unused.add("05-start")
    if recipe.start.anchor is None:
        unused.add("06-anchor")
    if not recipe.start.revise:
        unused.add("10-revise")
    shared = (ADOPTED if stage.name == ADOPTED.name and not recipe.start.revise else stage for stage in SHARED)
    learning = tuple(stage for stage in (*shared, *OPTIMIZERS[recipe.optimizer]) if stage.name not in unused)
    asked = recipe.evaluate.suites or recipe.evaluate.external
    return (*learning, EVALUATE, *([SUITES_STAGE] if asked else []))


def _start_ingredient(adapter: str | None) -> Ingredients:
    """What the adapter is that a run begins with, wherever it lies."""
    return {"adapter of start": file_ingredient(Path(str(adapter)))}


def _audited(recipe: Recipe) -> tuple[str, ...]:
    """What the audit of a judge reads: prompts to answer where nothing is gold, and the SFT model if it answers or judges."""
    answers = not has_gold(recipe)
    return (*((PROMPTS,) if answers else ()), *((SFT_ADAPTER,) if answers or roles.judges_itself(recipe) else ()))


def stage_index(name: str, stages: Sequence[Stage]) -> int:
    """The place in `stages` of one by its name (`40-dpo`), number (`40`) or word (`dpo`); `report` comes last.

    Raises:
        UserError: There is no such stage.
    """
    names = [*(stage.name for stage in stages), REPORT]
    for index, known in enumerate(names):
        if name in (known, *known.split("-")):
            return index
    if name in (SUITES_STAGE.name, *SUITES_STAGE.name.split("-")):
        raise UserError("55-suites is a stage where the recipe asks for suites: evaluate.suites=[dangerous, frank]")
    for optimizer, others in OPTIMIZERS.items():
        if any(name in (stage.name, *stage.name.split("-")) for stage in others):
            raise UserError(f"{name} is a stage of optimizer: {optimizer}; this recipe's stages are {', '.join(names)}")
    if any(name in (stage.name, *stage.name.split("-")) for stage in SHARED):
        raise UserError(f"{name} is no stage of this recipe: nothing in it learns from labels; its stages are {', '.join(names)}")
    raise UserError(f'There is no stage "{name}".{did_you_mean(name, names)}')
