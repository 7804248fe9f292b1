"""What a recipe's GRPO and RLOO learn from, put together from `grpo.rewards`; and the judge that looks on at a reward."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import cast

from rlaif_dpo.engines.base import Completion, Request, Sampling
from rlaif_dpo.engines.journal import complete
from rlaif_dpo.errors import UserError
from rlaif_dpo.files import Row
from rlaif_dpo.judges.build import build_judge, build_rules
from rlaif_dpo.judges.criteria import criteria_for, needs_principles
from rlaif_dpo.judges.rules.ask import conversation_key
from rlaif_dpo.judges.score import ScoreJudge
from rlaif_dpo.pipeline.gate import audited_treatment
from rlaif_dpo.pipeline.roles import rewards_by_score
from rlaif_dpo.pipeline.stage import REWARD_ADAPTER, SFT_ADAPTER, Context
from rlaif_dpo.prompts.rows import PromptRow
from rlaif_dpo.recipe.schema import JudgeSettings
from rlaif_dpo.recipe.training import Looks, Rollouts
from rlaif_dpo.seeding import derive_seed
from rlaif_dpo.train.held_out import HELD_OUT, HeldOut
from rlaif_dpo.train.reward import RewardFunction, RewardModel
from rlaif_dpo.train.reward_functions import Ask, compared, kept, ruled, scored, weighted


def build_reward(c: Context, folder: Path) -> tuple[RewardFunction, list[PromptRow]]:
    """The reward, and the prompts of `pairs` whose answers can earn it. What judge and rules say is kept in `folder`.

    Raises:
        UserError: A file of the judge's that cannot be used, or no prompt is left.
    """
    recipe, weights, prompts = c.recipe, c.recipe.grpo.rewards, c.prompts("pairs")
    parts: list[tuple[float, RewardFunction]] = []
    if weights.model:
        adapter = c.directory.path / REWARD_ADAPTER
        parts.append((weights.model, RewardModel(c.pool.base_for_training(), adapter, recipe.model.max_batch_tokens)))
    if weights.judge:
        ask, prompts = _judge(c, prompts, folder)
        parts.append((weights.judge, kept(ask, folder / "judgments.jsonl")))
    if weights.rules:
        judge = build_rules(recipe.judge, c.pool.guests(), prompts)
        parts.append((weights.rules, kept(ruled(judge, prompts), folder / "rules.jsonl")))
    return weighted(parts), prompts


def _judge(c: Context, prompts: list[PromptRow], folder: Path) -> tuple[Ask, list[PromptRow]]:
    recipe, settings = c.recipe, c.recipe.judge
    criteria = {conversation_key(p.messages): criteria_for(c.constitution, p, settings, recipe.seed) for p in prompts}
    if needs_principles(settings):
        prompts = [prompt for prompt in prompts if criteria[conversation_key(prompt.messages)]]
    if not prompts:
        raise UserError("No principle of the constitution applies to any prompt of `pairs`: its `applies_to` are other tags")
    if rewards_by_score(recipe):
        alone = settings.model_copy(update={"rulebook": None, "saturation": "none"})
        judge = build_judge(alone, c.pool.guests(), recipe.seed, prompts, recipe.endpoints)
        return scored(cast(ScoreJudge, judge), criteria), prompts
    references = {conversation_key(p.messages): text for p, text in _references(c, prompts, recipe.grpo, folder)}
    prompts = [prompt for prompt in prompts if conversation_key(prompt.messages) in references]
    if not prompts:
        raise UserError(f"The SFT model has no answer to compare with, to any prompt of `pairs`; see {folder}/references.jsonl")
    audited = audited_treatment(c.directory.path)
    judge = build_judge(settings, c.pool.guests(), recipe.seed, prompts, recipe.endpoints, audited)
    return compared(judge, criteria, references), prompts


def build_held_out(c: Context, prompts: Sequence[PromptRow], settings: Rollouts | Looks, folder: Path) -> HeldOut | None:
    """The judge that looks on, by comparison under every principle; None where the recipe names none."""
    if settings.held_out_judge is None:
        return None
    alone = JudgeSettings(model=settings.held_out_judge)
    criteria = {prompt.id: criteria_for(c.constitution, prompt, alone, c.recipe.seed) for prompt in prompts}
    asked = [prompt for prompt in prompts if criteria[prompt.id]]
    references = {prompt.id: text for prompt, text in _references(c, asked, settings, folder)}
    judge = build_judge(alone, c.pool.guests(), c.recipe.seed)
    known = {prompt.id: prompt for prompt in asked}
    return HeldOut(judge, known, criteria, references, settings.held_out_answers, folder / HELD_OUT)


def _references(
    c: Context, prompts: Sequence[PromptRow], settings: Rollouts | Looks, folder: Path
) -> Iterator[tuple[PromptRow, str]]:
    """One answer of the SFT model to each prompt that ended by itself."""
    engine = c.pool.engine(c.directory.path / SFT_ADAPTER)
    sampling = Sampling(temperature=settings.temperature, max_new_tokens=settings.max_new_tokens)
    requests = [Request(p.id, p.messages, sampling, derive_seed(c.recipe.seed, "reference", p.id)) for p in prompts]
    rows = complete(folder / "references.jsonl", engine, requests, _no_columns, c.progress, "answers to compare with")
    yield from ((p, rows[p.id]["text"]) for p in prompts if rows[p.id]["finish_reason"] == "stop")


def _no_columns(completion: Completion) -> Row:
    return {}
