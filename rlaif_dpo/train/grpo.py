"""GRPO and RLOO: answers to one prompt are compared with each other, and the better ones become likelier. See docs/grpo.md.

The loss and its optimiser are trl's (trl_adapter.py). Ours are the answers (the engine's, every seed from its place), what they
earn, what is looked at before anything is learned from them, and resuming.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean, pstdev
from typing import Literal

from torch import Tensor

from rlaif_dpo.errors import UserError
from rlaif_dpo.files import JsonlWriter, Row, read_jsonl, write_json, write_jsonl
from rlaif_dpo.models.load import LoadedModel
from rlaif_dpo.progress import Progress
from rlaif_dpo.prompts.rows import PromptRow
from rlaif_dpo.recipe.training import Grpo
from rlaif_dpo.train.baseline import Baseline, measure_baseline
from rlaif_dpo.train.dpo import TOLERANCE
from rlaif_dpo.train.held_out import HeldOut, Look, looking
from rlaif_dpo.train.loop import (
    METRICS,
    checkpointed,
    continue_adapter,
    fit,
    open_work,
    remove_checkpoints,
    save_adapter,
    trainer_seed,
    training,
)
from rlaif_dpo.train.micro_batch import Event, in_micro_batches, nobody
from rlaif_dpo.train.optimise import zero_dropout
from rlaif_dpo.train.reward import RewardFunction
from rlaif_dpo.train.roles import chunked
from rlaif_dpo.train.rollout import EPISODES, Episode, Sampler, usable_prompts
from rlaif_dpo.train.tripwires import learned_wires, measured_wires, rollout_health, tripped

Method = Literal["grpo", "rloo"]
POLICY = "default"


class Stopped(Exception):
    """A tripwire ended the run before an update was learned from: its row of `metrics.jsonl`, and what the wire says."""

    def __init__(self, row: Row, sentence: str) -> None:
        super().__init__(sentence)
        self.row, self.sentence = row, sentence


def run_grpo(
    prompts: Sequence[PromptRow],
    loaded: LoadedModel,
    sft_adapter: Path,
    reward: RewardFunction,
    settings: Grpo,
    method: Method,
    folder: Path,
    seed: int,
    progress: Progress,
    *,
    reward_name: str,
    max_batch_tokens: int = 16384,
    event: Event = nobody,
    held_out: HeldOut | None = None,
) -> dict[str, int]:
    """Train the SFT adapter on groups of its own answers to `prompts`, for `reward`.

    Writes `folder/baseline.jsonl` (the SFT model's answers and their scores), `episodes.jsonl` (the same of every update),
    `metrics.jsonl` (a row per update), `health.json`, and last `adapter/`: SFT and what was learned in one adapter. A tripwire
    may end the run early; then the adapter is the policy that tripped it, and `health.json` says so. A stopped process resumes
    from its last checkpoint; a finished run returns at once. `loaded.model` is the bare base afterwards.

    Args:
        prompts: What is answered; each pass over them is in a new order.
        loaded: The one base.
        sft_adapter: Where the policy starts, and its reference.
        reward: Scores answers. It may compute with `loaded`, which has all its adapters on it then.
        settings: The recipe's `grpo` section.
        method: GRPO (Shao et al. 2024, arXiv 2402.03300) or RLOO (Ahmadian et al. 2024, arXiv 2402.14740).
        folder: Where to write.
        seed: Of the run.
        progress: Told of finished answers and their tokens.
        reward_name: Says which reward it is: another name is other work.
        max_batch_tokens: Generated at once.
        event: Told when fewer answers must be in memory at once.
        held_out: Looks on at what the reward likes; None: nobody does.

    Returns:
        The funnel: prompts in, dropped by reason, kept.

    Raises:
        UserError: No prompt leaves room for an answer, no answer gets a score, the adapter is missing or does not fit, or the
            memory does not suffice.
        RuntimeError: The policy does not start at its reference.
    """
    usable, funnel = usable_prompts(prompts, loaded, settings)
    rows: list[Row] = [{"id": prompt.id, "messages": list(prompt.messages)} for prompt in usable]
    work = open_work(method, folder, rows, settings, loaded, seed, reward_name, starts=[sft_adapter])
    if work is None:
        return funnel

    from rlaif_dpo.train.trl_adapter import rollout_trainer

    name, stage_seed = method.upper(), trainer_seed(seed, method)

    def optimise(settings: Grpo) -> None:
        stopped = None
        with training(loaded, lambda base: continue_adapter(base, sft_adapter, loaded)) as policy, zero_dropout(policy):
            loaded.model = policy
            sampler = Sampler(usable, loaded, POLICY, reward, settings, method, seed, max_batch_tokens, settings.group_size)
            baseline = measure_baseline(sampler, loaded, POLICY, settings, settings.rows_at_once, folder, work.checkpoints)
            write_jsonl(folder / EPISODES, [r for r in read_jsonl(folder / EPISODES) if r["step"] <= checkpointed(folder)])
            with JsonlWriter(folder / EPISODES) as journal:
                updates = Updates(sampler, baseline, settings, loaded, name, journal, progress, looking(held_out, reward))
                trainer = rollout_trainer(policy, updates, loaded, sft_adapter, settings, method, work.checkpoints, stage_seed)
                try:
                    fit(trainer, folder, settings.updates, settings.updates * settings.batch_size, 1, progress, name)
                except Stopped as stop:
                    stopped = stop.sentence
                    with JsonlWriter(folder / METRICS) as curve:
                        curve.write(stop.row)
            verdict = rollout_health(name, list(read_jsonl(folder / METRICS)), settings.max_kl, stopped)
            write_json(folder / "health.json", verdict | {"baseline": baseline.numbers()})
            save_adapter(policy, folder, work.meta | {"reward": reward_name})
        progress.say(verdict["verdict"])

    in_micro_batches(optimise, settings, folder, work.key, name, progress, event)
    remove_checkpoints(folder)
    return funnel


class Updates:
    """The answers of one update after another, and the look at them; implements `trl_adapter.Rollouts`."""

    def __init__(
        self,
        sampler: Sampler,
        baseline: Baseline,
        settings: Grpo,
        loaded: LoadedModel,
        name: str,
        journal: JsonlWriter,
        progress: Progress,
        look: Look,
    ) -> None:
        self._sampler, self._baseline, self._settings, self._loaded = sampler, baseline, settings, loaded
        self._look = look
        self._name, self._journal, self._progress = name, journal, progress
        self._warned: set[str] = set()

    def sample(self, update: int) -> list[Episode]:
        """`batch_size` answers of the policy, those to one prompt side by side, with their scores.

        Raises:
            UserError: None has one.
        """
        size = self._settings.batch_size
        episodes = self._sampler.sample(str(update), (update - 1) * size, size)
        if not any(episode.scored for episode in episodes):
            raise UserError(f"None of the {size} answers of update {update} got a score: check the reward.")
        return episodes

    def reward(self, episode: Episode) -> float | None:
        """What the answer earns: less if it was cut; None without a score."""
        if not episode.scored:
            return None
        return episode.score - (0.0 if episode.ended else self._settings.no_eos_penalty)

    def look(self, update: int, episodes: Sequence[Episode], kl: Tensor, entropy: Tensor, mask: Tensor) -> dict[str, float]:
        """The update's columns of `metrics.jsonl`, before anything is learned from it.

        Args:
            update: Its number, from 1.
            episodes: Its answers.
            kl: (answers, T) log pi - log pi_ref of every token.
            entropy: (answers, T) of pi, in nats.
            mask: (answers, T) true where an answer has a token.

        Raises:
            Stopped: A tripwire is far out, and the recipe lets it stop the run.
            RuntimeError: The policy does not start at its reference.
        """
        settings = self._settings
        if update == 1 and (apart := kl[mask].abs().max().item()) > TOLERANCE[self._loaded.dtype]:
            raise RuntimeError(f"{self._name} does not start at its reference: a log-ratio is {apart:.4f} (should be 0).")
        had = [episode for episode in episodes if episode.scored]
        scores = self._baseline.normalised(had)
        mean_entropy = entropy[mask].mean().item()
        row = {
            "score": fmean(scores),
            "score_std": pstdev(scores),
            "kl": (kl * mask).sum(dim=1).mean().item(),
            "entropy": mean_entropy,
            "no_eos": fmean(not episode.ended for episode in had),
            "no_score": 1 - len(had) / len(episodes),
            "zero_variance": fmean(map(self._teaches_nothing, chunked(episodes, settings.group_size))),
        } | self._baseline.compare(had, mean_entropy)
        row |= self._look(update, had)
        for episode in episodes:
            self._journal.write(episode.row(update))
        for trip in tripped((*measured_wires(settings.max_kl), *learned_wires()), row):
            if trip.wire.metric not in self._warned:
                self._progress.say(f"{self._name}, update {update}: {trip.sentence}")
            self._warned.add(trip.wire.metric)
            if trip.level == settings.tripwires == "stop":
                raise Stopped({"step": update} | {name: _finite(value) for name, value in row.items()}, trip.sentence)
        return row

    def _teaches_nothing(self, group: Sequence[Episode]) -> bool:
        """Whether all answers to a prompt earn the same, or fewer than two earn anything: no advantage is left."""
        earned = [reward for reward in map(self.reward, group) if reward is not None]
        return len(earned) < 2 or max(earned) - min(earned) < 1e-8


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
