"""Preflight: what a run would do and cost, and what cannot work, before anything is spent. Loads a tokenizer, no weights."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from rlaif_dpo.constitution import Constitution, load_constitution
from rlaif_dpo.engines.base import NO_VLLM
from rlaif_dpo.errors import UserError
from rlaif_dpo.evaluate.suites import SuitePrompt, load_suites, system_prompt, with_system
from rlaif_dpo.models.cards import named_card, present_card
from rlaif_dpo.models.shapes import Shapes, shapes_of
from rlaif_dpo.pairs.planned import contrast_prompts, most_preferences
from rlaif_dpo.pipeline import roles
from rlaif_dpo.pipeline.advice import Advice, advise
from rlaif_dpo.pipeline.checks import check_gold, check_keys, check_recipe, check_start, check_trackers
from rlaif_dpo.pipeline.cost import Cost, cost_of
from rlaif_dpo.pipeline.directory import RunDirectory
from rlaif_dpo.pipeline.prompts import prompts_of
from rlaif_dpo.pipeline.stage import PHASES, PROMPTS, policies_of
from rlaif_dpo.pipeline.stages import stages_of
from rlaif_dpo.pipeline.state import stage_status
from rlaif_dpo.pipeline.work import judge_question
from rlaif_dpo.progress import Silent
from rlaif_dpo.prompts.rows import PromptRow
from rlaif_dpo.recipe import Recipe
from rlaif_dpo.recipe.training import Grpo, Ppo
from rlaif_dpo.revise.few_shot import load_few_shot, with_examples
from rlaif_dpo.revise.loop import check_room

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

TEMPLATE = 100
"""Tokens that a question to a critic or a judge has beside the principle and the texts it is about: about as many."""
VLLM = "vLLM takes what is free of the card; the memory told for drafts, answers and judgments is the least that it needs."
ACTIONS = {"finished": "skip", "half": "resume", "stale": "redo", "absent": "run"}


@dataclass(frozen=True)
class StagePlan:
    """What `run` would do with a stage: "skip", "resume", "redo" (and why) or "run"."""

    stage: str
    action: str
    changed: tuple[str, ...] = ()


@dataclass(frozen=True)
class PhasePlan:
    """The prompts of a phase and the work they make.

    Attributes:
        prompts: How many there are.
        mean_tokens: Of a rendered prompt.
        max_tokens: Of the longest.
        too_long: Prompts that leave no room for an answer: they fail, row by row, and are counted.
        tight: Prompts that leave less room than `max_new_tokens`: their answers may be cut.
        over_length: Prompts whose longest answer, or judgment, makes a row longer than the `max_length` of its training: it may
            be dropped.
        generations: Completions wanted.
        judge_passes: What the judge's model is asked, at most: rationales and scored options, both orders, every principle.
        judge_tokens: The tokens of these, at most.
        reward_passes: Answers that the reward model scores, one forward pass each.
        tokens: Prompt and completion tokens, at most, if every answer were as long as it may be.
        room: The most tokens of an answer.
        overhead: What a critic or a judge is asked beside the prompt and the answers: examples and the longest principle.
        rows: Preferences, at most.
        judge_row: Tokens of the longest row of a judgment, at most, where the policy learns to judge.
    """

    prompts: int
    mean_tokens: float
    max_tokens: int
    too_long: int
    tight: int
    over_length: int
    generations: int
    judge_passes: int
    judge_tokens: int
    reward_passes: int
    tokens: int
    room: int
    overhead: int
    rows: int = 0
    judge_row: int = 0


@dataclass(frozen=True)
class Plan:
    """What `plan` found.

    Attributes:
        name: Of the run.
        path: Where it would be.
        stages: What would be done, in order. What follows a redone stage is skipped after all if its input stays the same.
        phases: Prompts and work by phase; "suites" is one where there are any, and so is an optimizer that samples ("ppo"): on
            the prompts of "pairs", which is none where nothing learns from labels.
        dropped: Prompts of the source that are not usable, by reason.
        context_length: Of the model, in tokens.
        sample: The first prompt as the model sees it.
        notes: Sentences worth reading first.
        cost: What drafter, critic and judges are asked, and what endpoints take for it.
        advice: Memory, changes, hours and disk on a card; None for a model type whose memory is not known, and for a run without
            phase 1, which needs no more than one with it.
    """

    name: str
    path: str
    stages: tuple[StagePlan, ...]
    phases: Mapping[str, PhasePlan]
    dropped: Mapping[str, int]
    context_length: int
    sample: str
    notes: tuple[str, ...]
    cost: Cost
    advice: Advice | None

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def plan(recipe: Recipe, root: Path | str = "runs", gpu: str | None = None) -> Plan:
    """What `run(recipe, root)` would do, on the card called `gpu` or on what this machine has.

    Raises:
        UserError: It cannot work: its files, its constitution, its model, or prompts none of which fits the context; or the card
            is not known.
    """
    card = named_card(gpu) if gpu is not None else None
    constitution = load_constitution(recipe.constitution)
    check_recipe(recipe, constitution)
    if recipe.round in (None, 1):
        check_start(recipe)
    check_gold(recipe, constitution)
    check_keys(recipe)
    check_trackers(recipe)
    from rlaif_dpo.models.chat import render
    from rlaif_dpo.models.load import load_tokenizer
    from rlaif_dpo.prompts import leak, shortfall

    load, split, _ = prompts_of(recipe)
    tokenizer, context_length, notes = load_tokenizer(recipe.model)
    suites, lost = load_suites(recipe.evaluate)
    cost = cost_of(recipe, constitution, split, suites)
    asked = {phase: split[phase] for phase in PHASES if phase != "pairs" or roles.learns_from_labels(recipe)}
    if not recipe.start.revise:
        del asked["revise"]
    if suites:
        asked["suites"] = _suite_rows(suites, recipe, constitution)
    phases = {
        phase: _phase(phase, prompts, recipe, constitution, tokenizer, context_length, cost) for phase, prompts in asked.items()
    }
    for phase, found in phases.items():
        if found.too_long == found.prompts:
            raise UserError(
                f"every one of the {found.prompts} prompts of {phase} is longer than the context of {recipe.model.path} "
                f"({context_length} tokens); use shorter prompts or another model"
            )
    if (sampled := roles.rollouts(recipe)) is not None:
        phases[recipe.optimizer] = _rollouts(split["pairs"], sampled, recipe, constitution, tokenizer, context_length, cost)
    if recipe.start.revise and recipe.revise.critic == "same":
        examples, prompts = load_few_shot(recipe.revise.few_shot, Silent()), split["revise"]
        check_room(
            lambda messages: len(render(tokenizer, messages)), context_length, recipe.model.path, prompts, constitution, examples
        )
    directory = RunDirectory(Path(root) / recipe.name)
    of_prompts = [sentence for sentence in (shortfall(split, recipe.prompts), leak(split, recipe.prompts)) if sentence]
    builders = recipe.pairs.builders.weights
    if "pairs" in phases and list(builders) != ["judged"]:
        shares = ", ".join(f"{name} {weight:g}" for name, weight in builders.items())
        notes = (f"Pairs are {shares}: at most {phases['pairs'].rows:,} preferences.", *notes)
    if recipe.model.engine == "vllm":
        notes = (*notes, VLLM if find_spec("vllm") else f"{VLLM} {NO_VLLM}.")
    models, unknown = _models(recipe)
    estimated = "same" in models and recipe.start.revise
    return Plan(
        name=recipe.name,
        path=str(directory.path),
        stages=_stages(recipe, constitution, directory),
        phases=phases,
        dropped=dict(load.dropped) | {f"{why} (evaluate.external)": count for why, count in lost.items()},
        context_length=context_length,
        sample=rendered(tokenizer, next(iter(asked.values()))[0]),
        notes=(*of_prompts, *notes, *unknown, *(warning for bill in cost.bills for warning in bill.warnings)),
        cost=cost,
        advice=advise(recipe, models, phases, card or present_card()) if estimated else None,
    )


def _suite_rows(prompts: Sequence[SuitePrompt], recipe: Recipe, constitution: Constitution) -> list[PromptRow]:
    """What the policies are asked: every prompt, and, if the recipe wants it, every prompt with the system prompt."""
    systems = (None, system_prompt(constitution)) if recipe.evaluate.system_prompt else (None,)
    return [PromptRow(prompt.id, with_system(prompt.messages, system)) for system in systems for prompt in prompts]


def _models(recipe: Recipe) -> tuple[dict[str, Shapes], list[str]]:
    """The shapes of every local model by the name that roles call it by, and a sentence about each whose type is not known."""
    from rlaif_dpo.models.load import load_config

    models: dict[str, Shapes] = {}
    unknown: list[str] = []
    for name in sorted({"same"} | roles.local(recipe, roles.everyone(recipe))):
        settings = recipe.model if name == "same" else recipe.model.model_copy(update={"path": name})
        config = load_config(settings)
        shapes = shapes_of(config)
        if shapes is None:
            unknown.append(f"The memory of {settings.path} is not estimated: its type, {config.model_type}, is not known here.")
        else:
            models[name] = shapes
    return models, unknown


def rendered(tokenizer: "PreTrainedTokenizerBase", prompt: PromptRow) -> str:
    """The prompt through the chat template, control tokens and all."""
    from rlaif_dpo.models.chat import render

    return str(tokenizer.decode(render(tokenizer, prompt.messages)))


def _phase(
    phase: str,
    prompts: Sequence[PromptRow],
    recipe: Recipe,
    constitution: Constitution,
    tokenizer: "PreTrainedTokenizerBase",
    context_length: int,
    cost: Cost,
) -> PhasePlan:
    from rlaif_dpo.models.chat import render

    lengths = [len(render(tokenizer, prompt.messages)) for prompt in prompts]
    examples = load_few_shot(recipe.revise.few_shot, Silent()) if phase == "revise" else ()
    shown = len(render(tokenizer, with_examples(prompts[0].messages, examples))) - lengths[0]
    room, per_prompt = {
        "revise": (recipe.revise.max_new_tokens, 1 + 2 * recipe.revise.rounds),
        "pairs": (recipe.pairs.max_new_tokens, recipe.pairs.candidates if recipe.pairs.builders.samples else 0),
        "evaluate": (recipe.evaluate.max_new_tokens, len(policies_of(recipe.optimizer))),
        "suites": (recipe.evaluate.max_new_tokens, len(policies_of(recipe.optimizer))),
    }[phase]
    works = [work for work in cost.works if phase != "revise" and work.stage.endswith(phase)]
    # A critique shows the reply, a revision the critique too: on average a prompt and one answer before the answer that is made.
    said = room if phase == "revise" else 0
    generated = per_prompt * sum(length + said + room for length in lengths) + 2 * recipe.revise.rounds * shown * len(prompts)
    contrasts = contrast_prompts(recipe, prompts, constitution) if phase == "pairs" else []
    generated += sum(len(render(tokenizer, messages)) + room for messages in contrasts)
    judge_tokens = sum(work.tokens_in + work.tokens_out for work in works)
    labels = recipe.dpo if recipe.optimizer == "dpo" else recipe.reward
    limit = min({"revise": recipe.sft.max_length, "pairs": labels.max_length}.get(phase, context_length), context_length)
    judged_rows = [0] * len(prompts)
    if phase == "pairs" and recipe.pairs.builders.meta_judged:
        asked = [judge_question(recipe, constitution, prompt) for prompt in prompts]
        judged_rows = [len(render(tokenizer, of.messages)) + of.replies + of.judgment if of else 0 for of in asked]
    return PhasePlan(
        prompts=len(prompts),
        mean_tokens=round(fmean(lengths), 1),
        max_tokens=max(lengths),
        too_long=sum(length >= context_length for length in lengths),
        tight=sum(length < context_length < length + room for length in lengths),
        over_length=sum(
            length < context_length and max(length + room, judged) > limit
            for length, judged in zip(lengths, judged_rows, strict=True)
        ),
        generations=per_prompt * len(prompts) + len(contrasts),
        judge_passes=sum(work.requests for work in works),
        judge_tokens=judge_tokens,
        reward_passes=0,
        tokens=generated + judge_tokens,
        room=room,
        overhead=shown + _longest_question(constitution, tokenizer, revising=phase == "revise"),
        rows=most_preferences(recipe, len(prompts)) if phase == "pairs" else 0,
        judge_row=max(judged_rows),
    )


def _longest_question(constitution: Constitution, tokenizer: "PreTrainedTokenizerBase", revising: bool) -> int:
    """Tokens of the longest question under a principle, and of the template around it."""
    asked = [text for p in constitution.principles for text in ((p.critique, p.revision) if revising else (p.compare,))]
    return TEMPLATE + max(len(tokenizer.encode(text, add_special_tokens=False)) for text in asked)


def _rollouts(
    prompts: Sequence[PromptRow],
    settings: Ppo | Grpo,
    recipe: Recipe,
    constitution: Constitution,
    tokenizer: "PreTrainedTokenizerBase",
    context_length: int,
    cost: Cost,
) -> PhasePlan:
    """Answers of the SFT model for the baseline, then those of every update; each is sampled once and scored once.

    Where a judge compares them, to reward or to look on, it does with one more answer of the SFT model to each prompt.
    """
    from rlaif_dpo.models.chat import render

    section = "ppo" if recipe.optimizer == "ppo" else "grpo"
    lengths = [len(render(tokenizer, prompt.messages)) for prompt in prompts]
    limit = min(settings.max_length, context_length) - settings.max_new_tokens
    too_long = sum(length > limit for length in lengths)
    if too_long == len(prompts):
        raise UserError(
            f"None of the {len(prompts)} prompts of pairs leaves room for an answer of {settings.max_new_tokens} tokens: "
            f"raise {section}.max_length or lower {section}.max_new_tokens"
        )
    answers = settings.baseline_samples + settings.updates * settings.batch_size
    judges, model = roles.judge_rewards(recipe), roles.model_rewards(recipe)
    looked_at = settings.held_out_judge is not None
    references = len(prompts) if looked_at or (judges and not roles.rewards_by_score(recipe)) else 0
    scored = (answers + (references if looked_at else 0)) if model else 0
    judged = [work for work in cost.works if work.stage == f"41-{recipe.optimizer}"]
    judge_tokens = sum(work.tokens_in + work.tokens_out for work in judged)
    room = fmean(lengths) + settings.max_new_tokens
    return PhasePlan(
        prompts=len(prompts),
        mean_tokens=round(fmean(lengths), 1),
        max_tokens=max(lengths),
        too_long=too_long,
        tight=0,
        over_length=0,
        generations=answers + references,
        judge_passes=sum(work.requests for work in judged),
        judge_tokens=judge_tokens,
        reward_passes=scored,
        tokens=round((answers + references + scored) * room) + judge_tokens,
        room=settings.max_new_tokens,
        overhead=_longest_question(constitution, tokenizer, revising=False),
    )


def _stages(recipe: Recipe, constitution: Constitution, directory: RunDirectory) -> tuple[StagePlan, ...]:
    plans = []
    remade: dict[str, str] = {}
    for stage in stages_of(recipe):
        found = stage_status(stage, directory, recipe, constitution)
        reads = {*stage.inputs(recipe), *([PROMPTS] if stage.phase else [])}
        follows = tuple(f"follows {remade[name]}" for name in sorted(reads & remade.keys()))
        action = "redo" if found.state == "finished" and follows else ACTIONS[found.state]
        plans.append(StagePlan(stage.name, action, found.changed or (follows if action == "redo" else ())))
        if action != "skip":
            remade |= dict.fromkeys(stage.outputs, stage.name)
    return tuple(plans)
