"""PPO against a reward, with four roles on one base: policy, reference, value function and, where it is a model, reward.

docs/ppo.md has the method in order; the numbers at the lines below are its steps. The equations are in ppo_math.py.

    role             adapter     head                         trained
    policy pi        `default`   the base's own               yes, from the SFT adapter
    reference        `ref`       the base's own               no: it is the SFT adapter
    value V          `ppo-value` scalar, float32              yes, from the reward model (or from SFT and a head of zeros)
    reward r         its own     scalar, float32              no; any function may stand in its place

Value and policy share the base but no trained weight, so that learning values never moves the policy.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean, pstdev
from typing import Any

import torch
from torch import Tensor
from torch.nn import Linear

from rlaif_dpo.errors import UserError
from rlaif_dpo.files import JsonlWriter, Row, read_jsonl, write_json, write_jsonl
from rlaif_dpo.models.adapters import add_adapter, use_adapter
from rlaif_dpo.models.load import LoadedModel
from rlaif_dpo.models.memory_roles import LOGIT_CHUNK
from rlaif_dpo.progress import Progress
from rlaif_dpo.prompts.rows import PromptRow
from rlaif_dpo.recipe.training import Ppo
from rlaif_dpo.seeding import derive_rng
from rlaif_dpo.train.baseline import Baseline, measure_baseline
from rlaif_dpo.train.dpo import TOLERANCE
from rlaif_dpo.train.held_out import HeldOut, Look, looking
from rlaif_dpo.train.loop import METRICS, continue_adapter, open_work, remove_checkpoints, save_adapter, training
from rlaif_dpo.train.optimise import Optimiser, load_checkpoint, memory_errors, save_checkpoint, without_dropout
from rlaif_dpo.train.ppo_math import (
    adapt_beta,
    clip_fraction,
    explained_variance,
    gae,
    kl_estimate,
    policy_loss,
    token_rewards,
    value_loss,
    whiten,
)
from rlaif_dpo.train.reward import RewardFunction, load_head
from rlaif_dpo.train.roles import (
    Answers,
    adapter_parameters,
    chunked,
    entropies,
    hidden_states,
    lay_out,
    log_probs,
    logit_error,
    new_head,
    read_scalar,
    switch,
)
from rlaif_dpo.train.rollout import EPISODES, Episode, Sampler, usable_prompts
from rlaif_dpo.train.tripwires import Trip, learned_wires, measured_wires, rollout_health, tripped

POLICY, REFERENCE, VALUE = "default", "ref", "ppo-value"


@dataclass(frozen=True)
class Experience:
    """An episode with what was measured at its tokens before the update, each (T,)."""

    episode: Episode
    logp: Tensor
    kl: Tensor
    entropy: Tensor
    values: Tensor
    rewards: Tensor
    advantages: Tensor
    returns: Tensor


def run_ppo(
    prompts: Sequence[PromptRow],
    loaded: LoadedModel,
    sft_adapter: Path,
    reward: RewardFunction,
    settings: Ppo,
    folder: Path,
    seed: int,
    progress: Progress,
    *,
    reward_name: str,
    value_from: Path | None = None,
    max_batch_tokens: int = 16384,
    held_out: HeldOut | None = None,
) -> dict[str, int]:
    """Train the SFT adapter on its own answers to `prompts`, for `reward`.

    Writes `folder/baseline.jsonl` (the SFT model's answers and their scores), `episodes.jsonl` (the same of every update),
    `metrics.jsonl` (a row per update), `health.json`, and last `adapter/`: SFT and PPO in one adapter. A tripwire may end the run
    early; then the adapter is the policy that tripped it, and `health.json` says so. A stopped process resumes from its last
    checkpoint; a finished run returns at once. `loaded.model` is the bare base afterwards.

    Args:
        prompts: What is answered; each pass over them is in a new order.
        loaded: The one base.
        sft_adapter: Where the policy starts, and its reference.
        reward: Scores answers. It may compute with `loaded`, which has all its adapters on it then.
        settings: The recipe's `ppo` section.
        folder: Where to write.
        seed: Of the run.
        progress: Told of finished answers and their tokens.
        reward_name: Says which reward it is: another name is other work.
        value_from: The reward adapter that the value function starts from; None starts it from the SFT adapter, at 0.
        max_batch_tokens: Generated at once.
        held_out: Looks on at what the reward likes; None: nobody does.

    Returns:
        The funnel: prompts in, dropped by reason, kept.

    Raises:
        UserError: No prompt leaves room for an answer, no answer gets a score, or an adapter is missing or does not fit.
        RuntimeError: The policy does not start at its reference.
    """
    usable, funnel = usable_prompts(prompts, loaded, settings)
    rows: list[Row] = [{"id": prompt.id, "messages": list(prompt.messages)} for prompt in usable]
    starts = [sft_adapter, *([value_from] if value_from else [])]
    work = open_work("ppo", folder, rows, settings, loaded, seed, reward_name, starts=starts)
    if work is None:
        return funnel
    with training(loaded, lambda base: continue_adapter(base, sft_adapter, loaded)) as policy:
        loaded.model = policy
        add_adapter(loaded, sft_adapter, REFERENCE)
        add_adapter(loaded, value_from or sft_adapter, VALUE)
        with without_dropout(policy, settings.gradient_checkpointing), memory_errors("PPO"):
            sampler = Sampler(usable, loaded, POLICY, reward, settings, "ppo", seed, max_batch_tokens)
            # (0) What the SFT model says and earns, which the policy still is.
            micro = settings.micro_batch_size or settings.minibatch_size
            baseline = measure_baseline(sampler, loaded, REFERENCE, settings, micro, folder, work.checkpoints)
            scale = score_scale(baseline, settings)
            head = initial_value_head(loaded, value_from, baseline, scale)
            learner = Learner(loaded, settings, seed, baseline, scale, head, looking(held_out, reward))
            stopped = learner.run(sampler, folder, work.checkpoints, progress)
        verdict = rollout_health("PPO", list(read_jsonl(folder / METRICS)), settings.max_kl, stopped)
        write_json(folder / "health.json", verdict | {"baseline": baseline.numbers()})
        save_adapter(policy, folder, work.meta | {"reward": reward_name})
    remove_checkpoints(folder)
    progress.say(verdict["verdict"])
    return funnel


def score_scale(baseline: Baseline, settings: Ppo) -> float:
    """What scores are divided by.

    Raises:
        UserError: All are the same.
    """
    if settings.reward_scale == "none":
        return 1.0
    if baseline.score_std == 0:
        raise UserError("The reward gives all answers of the SFT model the same score: set ppo.reward_scale: none.")
    return baseline.score_std


def initial_value_head(loaded: LoadedModel, value_from: Path | None, baseline: Baseline, scale: float) -> Linear:
    """V starts as the reward model on the scale of the reward, V(s) = (w.h(s) - mean) / std: what it says of a whole answer is a
    first guess at an unfinished one (Huang et al. 2024). Without a reward model V starts at 0, the SFT model's mean.
    """
    head = new_head(loaded, seed=0, bias=True)
    with torch.no_grad():
        if value_from is None:
            head.weight.zero_()
        else:
            head.weight.copy_(load_head(value_from, loaded).weight / scale)
            head.bias.fill_(-baseline.score_mean / scale)
    return head


class Learner:
    """One update after another: what it reads and changes are the adapters `default` and `ppo-value`, the head, and beta."""

    def __init__(
        self,
        loaded: LoadedModel,
        settings: Ppo,
        seed: int,
        baseline: Baseline,
        scale: float,
        value_head: Linear,
        look: Look,
    ) -> None:
        self._loaded, self._settings, self._seed = loaded, settings, seed
        self._baseline, self._scale, self._value_head = baseline, scale, value_head
        self._look = look
        self._beta = settings.kl_coef
        self._micro = settings.micro_batch_size or settings.minibatch_size
        steps = settings.updates * settings.epochs * (settings.batch_size // settings.minibatch_size)
        policy, value = adapter_parameters(loaded, POLICY), [*adapter_parameters(loaded, VALUE), *value_head.parameters()]
        groups = {"policy": (policy, settings.lr), "value": (value, settings.value_lr)}
        self._optimiser = Optimiser(groups, settings, steps, loaded)

    def run(self, sampler: Sampler, folder: Path, checkpoints: Path, progress: Progress) -> str | None:
        """Every update that is still to be done; returns the sentence of the tripwire that ended it, None if none did."""
        settings, size, done = self._settings, self._settings.batch_size, 0
        if state := load_checkpoint(checkpoints, self._loaded):
            done, self._beta = state["step"], state["beta"]
            self._optimiser.load_state_dict(state["optimiser"])
            progress.say(f"PPO resumes after update {done} of {settings.updates}.")
        for path in (folder / METRICS, folder / EPISODES):
            write_jsonl(path, [row for row in read_jsonl(path) if row["step"] <= done])
        warned: set[str] = set()
        with (
            JsonlWriter(folder / METRICS) as curve,
            JsonlWriter(folder / EPISODES) as journal,
            progress.task("PPO", settings.updates * size, done * size) as task,
        ):
            for step in range(done + 1, settings.updates + 1):
                batch = sampler.sample(str(step), (step - 1) * size, size)
                row, trips = self.update(batch, step)
                for episode in batch:
                    journal.write(episode.row(step))
                curve.write({name: value if math.isfinite(value) else None for name, value in row.items()})
                for trip in trips:
                    if trip.wire.metric not in warned:
                        progress.say(f"PPO, update {step}: {trip.sentence}")
                    warned.add(trip.wire.metric)
                task.advance(size, row["tokens"])
                if stops := [trip.sentence for trip in trips if trip.level == settings.tripwires == "stop"]:
                    return stops[0]
                if step % settings.save_steps == 0:
                    state = {"step": step, "beta": self._beta, "optimiser": self._optimiser.state_dict()}
                    save_checkpoint(checkpoints, step, state)
        return None

    def update(self, batch: Sequence[Episode], step: int) -> tuple[dict[str, Any], list[Trip]]:
        """One update on (1) sampled and (2) scored answers; returns its row of `metrics.jsonl` and the tripwires that it tripped.

        Where one of these stops the run, nothing was learned.
        """
        settings = self._settings
        episodes = [episode for episode in batch if episode.scored]
        if not episodes:
            raise UserError(f"None of the {len(batch)} answers of update {step} got a score: check the reward.")
        experience = self.measure(episodes)
        if step == 1:
            self._check_start(experience)
        row = {"step": step, "lr": self._optimiser.lr, "no_score": 1 - len(episodes) / len(batch)}
        row |= self._describe(experience) | self._look(step, episodes)
        trips = tripped(measured_wires(settings.max_kl), row)
        if not any(trip.level == settings.tripwires == "stop" for trip in trips):
            row |= self.learn(experience, step)
            trips += tripped(learned_wires(), row)
        return row, trips

    def measure(self, episodes: Sequence[Episode]) -> list[Experience]:
        """(3) log pi, log pi_ref and V at every token; from them rewards, advantages and returns."""
        settings, measured = self._settings, []
        for micro in chunked(episodes, self._micro):
            answers = self._lay_out(micro)
            with use_adapter(self._loaded, POLICY):
                hidden = hidden_states(self._loaded, answers.ids, answers.seen)
                logp = log_probs(self._loaded, answers, hidden, settings.temperature)
                entropy = entropies(self._loaded, answers, hidden, settings.temperature)
            with use_adapter(self._loaded, REFERENCE):
                hidden = hidden_states(self._loaded, answers.ids, answers.seen)
                ref_logp = log_probs(self._loaded, answers, hidden, settings.temperature)
            with use_adapter(self._loaded, VALUE):
                values = self._values(answers)
            # (4) The score on a scale where the SFT model's mean is 0; less for an answer that was cut.
            penalty = torch.tensor([0.0 if episode.ended else settings.no_eos_penalty for episode in micro])
            score = (torch.tensor(self._baseline.normalised(micro, self._scale)) - penalty).to(self._loaded.device)
            # (5) r_t = -beta kl_t, and at the last token the score.
            kl = kl_estimate(logp, ref_logp, settings.kl_estimator)
            rewards = token_rewards(kl, score, answers.mask, self._beta)
            # (6) A_t by GAE, and R_t = A_t + V(s_t).
            advantages, returns = gae(rewards, values, answers.mask, settings.gamma, settings.gae_lambda)
            for row, episode in enumerate(micro):
                tensors = (logp, kl, entropy, values, rewards, advantages, returns)
                measured.append(Experience(episode, *(tensor[row, : len(episode.answer)] for tensor in tensors)))
        return measured

    def learn(self, experience: Sequence[Experience], step: int) -> dict[str, float]:
        """(7) Advantages whitened over the update; then epochs of clipped steps on it, and (8) the next beta."""
        settings = self._settings
        whitened = whiten(_tokens(experience, "advantages"))
        samples = list(zip(experience, whitened.split([len(e.advantages) for e in experience]), strict=True))
        sums: dict[str, float] = {}
        norms: list[dict[str, float]] = []
        seen = 0
        for epoch in range(settings.epochs):
            if epoch > 0:  # the first pass keeps the batches of the measurement, so that its ratios are 1 to the last bit
                derive_rng(self._seed, "ppo", step, "order", epoch).shuffle(samples)
            for minibatch in chunked(samples, settings.minibatch_size):
                tokens = sum(len(advantages) for _, advantages in minibatch)
                for micro in chunked(minibatch, self._micro):
                    for name, value in self._accumulate(micro, tokens, first=not norms).items():
                        sums[name] = sums.get(name, 0.0) + value
                norms.append(self._optimiser.step())
                seen += tokens
        if settings.kl_target is not None:
            self._beta = adapt_beta(self._beta, _per_answer(experience, "kl"), settings.kl_target)
        return {name: value / seen for name, value in sums.items()} | {
            "grad_norm": fmean(norm["policy"] for norm in norms),
            "value_grad_norm": fmean(norm["value"] for norm in norms),
        }

    def _accumulate(self, micro: Sequence[tuple[Experience, Tensor]], tokens: int, first: bool) -> dict[str, float]:
        """Add a micro-batch's gradients, its part of a mean over the minibatch's `tokens`; returns sums over its own tokens."""
        settings, experience = self._settings, [e for e, _ in micro]
        answers = self._lay_out([e.episode for e in experience])
        old_logp, old_values, returns = (_tokens(experience, name) for name in ("logp", "values", "returns"))
        switch(self._loaded, POLICY)
        hidden = hidden_states(self._loaded, answers.ids, answers.seen)
        logp = log_probs(self._loaded, answers, hidden, settings.temperature)[answers.mask]
        if first:
            self._require("the policy is not the one that was sampled from: a log-ratio", (logp.detach() - old_logp).abs().max())
        objective = policy_loss(logp, old_logp, torch.cat([advantages for _, advantages in micro]), settings.clip)
        self._optimiser.backward(objective.sum() / tokens)
        switch(self._loaded, VALUE)
        error = value_loss(self._values(answers)[answers.mask], old_values, returns, settings.value_clip)
        self._optimiser.backward(error.sum() / tokens)
        logp = logp.detach()
        return {
            "policy_loss": objective.sum().item(),
            "value_loss": error.sum().item(),
            "clip_fraction": clip_fraction(logp, old_logp, settings.clip).sum().item(),
            # KL(pi_old || pi) by k3: the samples are pi_old's.
            "approx_kl": kl_estimate(old_logp, logp, "k3").sum().item(),
        }

    def _lay_out(self, episodes: Sequence[Episode]) -> Answers:
        return lay_out([e.prompt for e in episodes], [e.answer for e in episodes], self._loaded)

    def _values(self, answers: Answers) -> Tensor:
        """V(s_t), (rows, T), under the active adapter."""
        states = answers.states(hidden_states(self._loaded, answers.ids, answers.seen))
        return torch.where(answers.mask, read_scalar(self._value_head, states), 0.0)

    def _describe(self, experience: Sequence[Experience]) -> dict[str, float]:
        """What the answers of an update look like, in the columns of `metrics.jsonl`."""
        episodes = [e.episode for e in experience]
        scores = self._baseline.normalised(episodes, self._scale)
        entropy = _tokens(experience, "entropy").mean().item()
        return {
            "tokens": sum(len(episode.answer) for episode in episodes),
            "score": fmean(scores),
            "score_std": pstdev(scores),
            "reward": _per_answer(experience, "rewards"),
            "kl": _per_answer(experience, "kl"),
            "kl_coef": self._beta,
            "entropy": entropy,
            "no_eos": fmean(not episode.ended for episode in episodes),
            "explained_variance": explained_variance(_tokens(experience, "values"), _tokens(experience, "returns")),
        } | self._baseline.compare(episodes, entropy)

    def _check_start(self, experience: Sequence[Experience]) -> None:
        """Before the first update policy and reference are one model, and our log-probabilities are its own."""
        self._require("the policy is not its reference: a KL", _tokens(experience, "kl").abs().max())
        first = experience[0].episode
        few = replace(first, answer=first.answer[:LOGIT_CHUNK])  # the model's own pass has the logits of all tokens at once
        with use_adapter(self._loaded, POLICY):
            error = logit_error(self._loaded, self._lay_out([few]), self._settings.temperature)
        self._require(f"{self._loaded.name} does more to its logits than is known here: an error", torch.tensor(error))

    def _require(self, what: str, number: Tensor) -> None:
        if not number.item() <= TOLERANCE[self._loaded.dtype]:
            raise RuntimeError(f"PPO would learn something else: {what} is {number.item():.4f} (should be 0).")


def _tokens(experience: Sequence[Experience], name: str) -> Tensor:
    """What was measured at every token of all answers, (tokens,)."""
    return torch.cat([getattr(e, name) for e in experience])


def _per_answer(experience: Sequence[Experience], name: str) -> float:
    """The mean over answers of the sum over tokens."""
    return torch.stack([getattr(e, name).sum() for e in experience]).mean().item()
