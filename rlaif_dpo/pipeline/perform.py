"""The work of each stage: its rows, models and settings are handed to the package that does it."""

import dataclasses
import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

from rlaif_dpo.engines.base import Engine
from rlaif_dpo.errors import UserError
from rlaif_dpo.files import write_json, write_jsonl
from rlaif_dpo.judges.base import Judge
from rlaif_dpo.judges.build import build_judge, build_rules
from rlaif_dpo.pipeline import roles
from rlaif_dpo.pipeline.gate import AUDIT, audited_treatment, cap_of, keep_audit, needs_audit, pass_gate
from rlaif_dpo.pipeline.prompts import prompts_of
from rlaif_dpo.pipeline.stage import (
    ANCHOR_ADAPTER,
    PHASES,
    PREFERENCES,
    PROMPTS,
    REVISED,
    REWARD_ADAPTER,
    REWARD_CARD,
    SFT_ADAPTER,
    START_ADAPTER,
    Context,
    Counts,
    check_fits,
    trained,
)
from rlaif_dpo.pipeline.truth import truth_of
from rlaif_dpo.prompts.rows import PromptRow
from rlaif_dpo.prompts.stored import StoredPrompts
from rlaif_dpo.seeding import derive_rng


def prompts(c: Context) -> Counts:
    from rlaif_dpo.prompts import leak, shortfall

    settings = c.recipe.prompts
    load, phases, clusters = prompts_of(c.recipe)
    if load.dropped:
        reasons = ", ".join(f"{count} {why}" for why, count in load.dropped.most_common())
        c.progress.say(f"{settings.source}: dropped {load.dropped.total()} rows ({reasons})")
    for sentence in (shortfall(phases, settings), leak(phases, settings)):
        if sentence:
            c.progress.say(sentence)
    rows = ({"phase": phase} | dataclasses.asdict(row) for phase in PHASES for row in phases[phase])
    write_jsonl(c.directory.path / PROMPTS, rows)
    counts = {phase: len(phases[phase]) for phase in PHASES} | {f"dropped: {why}": n for why, n in load.dropped.items()}
    return counts if settings.twin_threshold is None else {"clusters": clusters} | counts


def adopt(stage: str, which: Literal["adapter", "anchor"], c: Context) -> Counts:
    """An adapter of `start`, copied into `stage`: what becomes of the original matters no more."""
    folder = c.directory.folder(stage)
    draft = folder / ".adapter.tmp"
    shutil.rmtree(draft, ignore_errors=True)
    shutil.copytree(str(getattr(c.recipe.start, which)), draft)
    shutil.rmtree(folder / "adapter", ignore_errors=True)
    draft.rename(folder / "adapter")
    return {}


def revise(c: Context) -> Counts:
    from rlaif_dpo.revise.run import run_revise

    settings, prompts, folder = c.recipe.revise, c.prompts("revise"), c.directory.folder("10-revise")
    engine_of = c.pool.guests()
    on_policy = settings.drafter == "same" and c.recipe.start.adapter is not None
    drafter = c.pool.engine(c.directory.path / START_ADAPTER) if on_policy else engine_of(settings.drafter)
    critic = engine_of(settings.critic)
    check_fits(drafter, prompts)
    return run_revise(prompts, c.constitution, settings, drafter, critic, folder, c.recipe.seed, c.progress).funnel


def sft(c: Context) -> Counts:
    from rlaif_dpo.train.sft import run_sft

    rows, folder = c.directory.path / REVISED, c.directory.folder("20-sft")
    base, event = c.pool.base_for_training(), c.micro_batch("20-sft")
    start = c.directory.path / START_ADAPTER if c.recipe.start.adapter is not None else None
    return run_sft(rows, base, c.recipe.lora, c.recipe.sft, folder, c.recipe.seed, c.progress, c.tracking, event, start)


def audit(c: Context) -> Counts:
    from rlaif_dpo.judges.audit import verdict
    from rlaif_dpo.pipeline.audit import audit_judge

    recipe, run, folder = c.recipe, c.directory.path, c.directory.folder("25-audit")
    if not needs_audit(recipe):
        write_json(run / AUDIT, None)
        return {}
    found = audit_judge(recipe, c.constitution, c.prompts("pairs"), c.pool, run / SFT_ADAPTER, folder, c.progress)
    gate = verdict(found, recipe.judge.accept)
    keep_audit(run / AUDIT, found, gate)
    c.progress.say(f"25-audit: {gate.summary()}")
    return {"pairs": found.pairs, "with gold": found.gold, "comparisons": found.asked.comparisons}


def pairs(c: Context) -> Counts:
    from rlaif_dpo.pairs.run import run_pairs

    recipe, builders = c.recipe, c.recipe.pairs.builders
    if roles.judge_labels(recipe):
        pass_gate(c.directory.path, recipe.judge.accept, c.progress.say)
        if builders.judged and (sentence := cap_of(recipe, audited_treatment(c.directory.path))):
            c.progress.say(sentence)
    prompts, engine = StoredPrompts(c.directory.path / PROMPTS, "pairs"), c.pool.engine(c.directory.path / SFT_ADAPTER)
    if builders.samples or builders.rlcd:
        check_fits(engine, prompts)
    engine_of, folder = c.pool.guests(), c.directory.folder("30-pairs")
    judge = _judge(c, prompts, engine_of) if builders.judged else None
    rules = build_rules(recipe.judge, engine_of, prompts) if builders.rbr_ladder else None
    anchor = c.pool.engine(c.directory.path / ANCHOR_ADAPTER) if recipe.start.anchor is not None else None
    return run_pairs(
        prompts, c.constitution, recipe.pairs, recipe.judge, engine, judge, folder, recipe.seed, c.progress,
        held_out=c.prompts("evaluate"), rules=rules, revised=c.directory.folder("10-revise"), anchor=anchor,
    ).funnel  # fmt: skip


def dpo(c: Context) -> Counts:
    from rlaif_dpo.pipeline.rewards import build_held_out
    from rlaif_dpo.train.dpo import run_dpo
    from rlaif_dpo.train.processes import world_size

    rows, reference, folder = c.directory.path / PREFERENCES, c.directory.path / SFT_ADAPTER, c.directory.folder("40-dpo")
    settings, seed, event = c.recipe.dpo, c.recipe.seed, c.micro_batch("40-dpo")
    prompts = c.prompts("pairs")
    looked_at: list[PromptRow] = []
    held_out = None
    if world_size() == 1:
        looked_at = derive_rng(seed, "looks").sample(prompts, min(settings.looks.answers, len(prompts)))
        held_out = build_held_out(c, looked_at, settings.looks, folder)
    elif settings.looks.times:
        c.progress.say("DPO: several processes train together, so nobody looks at answers on the way (dpo.looks).")
    return run_dpo(
        rows, c.pool.base_for_training(), reference, settings, folder, seed, c.progress, c.tracking, event, looked_at, held_out,
        c.recipe.model.max_batch_tokens,
    )  # fmt: skip


def reward(c: Context) -> Counts:
    from rlaif_dpo.train.reward import run_reward

    rows, start, folder = c.directory.path / PREFERENCES, c.directory.path / SFT_ADAPTER, c.directory.folder("40-reward")
    base, event = c.pool.base_for_training(), c.micro_batch("40-reward")
    return run_reward(rows, base, start, c.recipe.reward, folder, c.recipe.seed, c.progress, event)


def ppo(c: Context) -> Counts:
    from rlaif_dpo.pipeline.rewards import build_held_out
    from rlaif_dpo.train.ppo import run_ppo
    from rlaif_dpo.train.reward import RewardModel

    reward = _sound_reward(c)
    reference = c.directory.path / SFT_ADAPTER
    loaded, room, folder = c.pool.base_for_training(), c.recipe.model.max_batch_tokens, c.directory.folder("41-ppo")
    score, prompts = RewardModel(loaded, reward, room), c.prompts("pairs")
    held_out = build_held_out(c, prompts, c.recipe.ppo, folder)
    return run_ppo(
        prompts, loaded, reference, score, c.recipe.ppo, folder, c.recipe.seed, c.progress,
        reward_name="40-reward", value_from=reward, max_batch_tokens=room, held_out=held_out,
    )  # fmt: skip


def grpo(c: Context) -> Counts:
    from rlaif_dpo.pipeline.rewards import build_held_out, build_reward
    from rlaif_dpo.train.grpo import run_grpo

    recipe, weights, stage = c.recipe, c.recipe.grpo.rewards, f"41-{c.recipe.optimizer}"
    folder = c.directory.folder(stage)
    if weights.model:
        _sound_reward(c)
    if weights.judge:
        pass_gate(c.directory.path, recipe.judge.accept, c.progress.say)
    reward, prompts = build_reward(c, folder)
    held_out = build_held_out(c, prompts, recipe.grpo, folder)
    loaded, reference, room = c.pool.base_for_training(), c.directory.path / SFT_ADAPTER, recipe.model.max_batch_tokens
    return run_grpo(
        prompts, loaded, reference, reward, recipe.grpo, "rloo" if recipe.optimizer == "rloo" else "grpo", folder, recipe.seed,
        c.progress, reward_name=weights.terms, max_batch_tokens=room, event=c.micro_batch(stage), held_out=held_out,
    )  # fmt: skip


def _sound_reward(c: Context) -> Path:
    """The adapter of the reward model.

    Raises:
        UserError: Its card says that it is broken.
    """
    card = json.loads((c.directory.path / REWARD_CARD).read_text(encoding="utf-8"))
    if card["status"] == "broken":
        name = c.recipe.optimizer.upper()
        raise UserError(f"{card['verdict']} {name} would learn from noise: change `reward`, or set optimizer: dpo")
    return c.directory.path / REWARD_ADAPTER


def evaluate(c: Context) -> Counts:
    from rlaif_dpo.evaluate.run import run_evaluate

    recipe, prompts, engines = c.recipe, c.prompts("evaluate"), _engines(c)
    check_fits(engines["base"], prompts)
    judge, truth, folder = _judge(c, prompts), truth_of(prompts), c.directory.folder("50-evaluate")
    run_evaluate(prompts, c.constitution, recipe.evaluate, recipe.judge, engines, judge, truth, folder, recipe.seed, c.progress)
    return {"prompts": len(prompts)}


def suites(c: Context) -> Counts:
    from rlaif_dpo.pipeline.suites import ask_suites

    audited, folder = audited_treatment(c.directory.path), c.directory.folder("55-suites")
    found = ask_suites(c.recipe, c.constitution, c.pool, _engines(c), folder, c.progress, audited)
    return {suite: of["prompts"] for suite, of in found["suites"].items()}


def _engines(c: Context) -> dict[str, Engine]:
    return {policy: c.pool.engine(adapter) for policy, adapter in trained(c.directory.path, c.recipe.optimizer).items()}


def _judge(c: Context, prompts: Sequence[PromptRow], engine_of: Callable[[str], Engine] | None = None) -> Judge:
    """The recipe's judge; the models that it is made of live as long as it does."""
    audited = audited_treatment(c.directory.path)
    return build_judge(c.recipe.judge, engine_of or c.pool.guests(), c.recipe.seed, prompts, c.recipe.endpoints, audited)
