"""DPO samples nothing, so nobody sees what its policy would say: a few times while it trains, answers are sampled and looked at.

The prompts are the same at every look and in the baseline, the SFT model's answers before the first step. What an answer earns is
DPO's implicit reward, beta * log pi / pi_ref (Rafailov et al. 2023, arXiv 2305.18290, eq. 5).
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from transformers import TrainerCallback

from rlaif_dpo.files import JsonlWriter, Row, read_jsonl, write_jsonl
from rlaif_dpo.messages import assistant
from rlaif_dpo.models.adapters import use_adapter
from rlaif_dpo.models.load import LoadedModel
from rlaif_dpo.progress import Progress
from rlaif_dpo.prompts.rows import PromptRow
from rlaif_dpo.recipe.training import Dpo, Rollouts
from rlaif_dpo.train.baseline import measure_baseline
from rlaif_dpo.train.data import take_census
from rlaif_dpo.train.health import Check
from rlaif_dpo.train.held_out import HeldOut, looking
from rlaif_dpo.train.loop import checkpointed
from rlaif_dpo.train.reward import Answered
from rlaif_dpo.train.roles import Answers, chunked, entropies, hidden_states, lay_out, log_probs
from rlaif_dpo.train.rollout import EPISODES, Sampler, usable_prompts
from rlaif_dpo.train.tripwires import Trip, looked_wires, tripped, wire_check

LOOKS = "looks.jsonl"
POLICY, REFERENCE = "default", "ref"


class Looks(TrainerCallback):
    """The looks at one run of DPO, each a row of `folder/looks.jsonl`; a tripwire far out ends the training there.

    Args:
        prompts: Whose answers are looked at; at least one leaves room for them.
        loaded: The base with the policy `default` and its reference `ref`.
        settings: The recipe's `dpo` section.
        folder: Of the stage.
        kept: The folder of its checkpoints, where the baseline's numbers lie.
        steps: Optimiser steps of the whole run.
        seed: Of the run.
        progress: Told when a wire is tripped.
        held_out: Looks on at the implicit reward; None: nobody does.
        max_batch_tokens: Generated at once.
    """

    def __init__(
        self,
        prompts: Sequence[PromptRow],
        loaded: LoadedModel,
        settings: Dpo,
        folder: Path,
        kept: Path,
        steps: int,
        seed: int,
        progress: Progress,
        held_out: HeldOut | None,
        max_batch_tokens: int,
    ) -> None:
        of = settings.looks
        self._loaded, self._settings, self._progress = loaded, settings, progress
        self._sampling = Rollouts(
            batch_size=of.answers,
            baseline_samples=of.answers,
            temperature=of.temperature,
            max_new_tokens=min(of.max_new_tokens, loaded.context_length // 2),
            max_length=loaded.context_length,
        )
        usable, _ = usable_prompts(prompts, loaded, self._sampling)
        # What an answer earns is measured from its tokens, after it was sampled.
        nothing = lambda answers: [0.0] * len(answers)  # noqa: E731
        self._sampler = Sampler(usable, loaded, POLICY, nothing, self._sampling, "dpo", seed, max_batch_tokens)
        self._baseline = measure_baseline(self._sampler, loaded, REFERENCE, self._sampling, settings.rows_at_once, folder, kept)
        self._held_out = looking(held_out, self._implicit)
        self._folder, self._path, self._at = folder, folder / LOOKS, {round(steps * (i + 1) / of.times) for i in range(of.times)}
        self._warned: set[str] = set()
        done = checkpointed(folder)
        for path in (self._path, folder / EPISODES):
            write_jsonl(path, [row for row in read_jsonl(path) if row["step"] <= done])

    def checks(self) -> list[Check]:
        """What the last look says, as checks of `health.json`."""
        wires = looked_wires(self._settings.looks.max_kl)
        row = self._last()
        # The drift of chosen answers is measured at the end, too, on held-out pairs.
        found = [wire_check(wire, row[wire.metric]) for wire in wires if wire.metric in row and wire.metric != "chosen_drift"]
        if sentence := row.get("stopped"):
            said = f"a tripwire stopped it in step {row['step']}: {sentence}"
            found.insert(0, Check("tripwire", None, None, None, said, broken=True))
        return found

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step in self._at:
            row, trips = self.look(state.global_step, state.log_history)
            stops = [trip.sentence for trip in trips if trip.level == self._settings.looks.tripwires == "stop"]
            with JsonlWriter(self._path) as writer:
                writer.write(row | {"stopped": stops[0] if stops else None})
            for trip in trips:
                if trip.wire.metric not in self._warned:
                    self._progress.say(f"DPO, step {state.global_step}: {trip.sentence}")
                self._warned.add(trip.wire.metric)
            if stops:
                # Without a checkpoint here, a process that is killed before the end looks again, and stops again.
                control.should_training_stop, control.should_save = True, False

    def look(self, step: int, curve: Sequence[Row]) -> tuple[Row, list[Trip]]:
        """Answers of the policy as it stands, after the steps of `curve`: their row, and the wires that they trip."""
        episodes = [e for e in self._sampler.sample(f"look-{step}", 0, self._settings.looks.answers) if e.answer]
        kls, entropy = self._measure([(e.prompt, e.answer) for e in episodes])
        scored = [replace(e, score=self._settings.beta * kl) for e, kl in zip(episodes, kls, strict=True)]
        row: Row = {"step": step, "kl": fmean(kls), "entropy": entropy, "no_eos": fmean(not e.ended for e in episodes)}
        with JsonlWriter(self._folder / EPISODES) as journal:
            for episode in scored:
                journal.write(episode.row(step))
        before = self._last().get("step", 0)
        if drifts := [found["drift/chosen"] for found in curve if "drift/chosen" in found and found["step"] >= before]:
            row["chosen_drift"] = fmean(drifts)
        row |= self._baseline.compare(scored, entropy) | self._held_out(step, scored)
        return row, tripped(looked_wires(self._settings.looks.max_kl), row)

    def _last(self) -> Row:
        """The row of the last look; empty before the first."""
        return ([{}, *read_jsonl(self._path)])[-1]

    def _implicit(self, answers: Sequence[Answered]) -> list[float]:
        """The implicit rewards of texts; NaN where the chat template does not take one."""
        rows = [{"id": str(i), "prompt": list(x), "completion": [assistant(y)]} for i, (x, y) in enumerate(answers)]
        examples = take_census(rows, ("completion",), self._loaded, self._loaded.context_length).examples
        kls, _ = self._measure([(e.prompt, e.completions[0]) for e in examples])
        earned = {int(e.row["id"]): self._settings.beta * kl for e, kl in zip(examples, kls, strict=True)}
        return [earned.get(i, float("nan")) for i in range(len(answers))]

    def _measure(self, answers: Sequence[tuple[list[int], list[int]]]) -> tuple[list[float], float]:
        """log pi / pi_ref of every (prompt, answer), in nats, and the policy's mean entropy per token."""
        ratios: list[float] = []
        total, tokens = 0.0, sum(len(answer) for _, answer in answers)
        for some in chunked(answers, self._settings.rows_at_once):
            laid = lay_out([prompt for prompt, _ in some], [answer for _, answer in some], self._loaded)
            (logp, entropy), (ref_logp, _) = self._pass(POLICY, laid), self._pass(REFERENCE, laid)
            ratios += (logp - ref_logp).sum(dim=1).tolist()
            total += entropy.sum().item()
        return ratios, total / max(tokens, 1)

    def _pass(self, adapter: str, answers: Answers) -> tuple[torch.Tensor, torch.Tensor]:
        """log pi and entropy of every answer token, each (rows, T), at the temperature of the answers."""
        with use_adapter(self._loaded, adapter):
            hidden = hidden_states(self._loaded, answers.ids, answers.seen)
            at = self._settings.looks.temperature
            return log_probs(self._loaded, answers, hidden, at), entropies(self._loaded, answers, hidden, at)
