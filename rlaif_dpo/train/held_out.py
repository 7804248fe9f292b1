"""A judge that nothing is learned from looks on: does it like what the reward likes?

An answer of the policy and one of the SFT model to the same prompt are compared by both. A reward that means what it should gives
more to what the judge prefers. Where it gives more to what the judge dislikes, it is being gamed, however well it looks by itself
(Gao et al. 2023, arXiv 2210.10760).
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import fmean, stdev

from rlaif_dpo.files import JsonlWriter, Row, read_jsonl, write_jsonl
from rlaif_dpo.judges.base import Comparison, Criterion, Judge
from rlaif_dpo.prompts.rows import PromptRow
from rlaif_dpo.train.reward import RewardFunction
from rlaif_dpo.train.rollout import Episode

HELD_OUT = "held_out.jsonl"
WINDOW = 5
"""Updates whose answers are taken together: one update has few of them, and what an early one showed may be over."""
FEWEST = 8
"""Prompts on which the reward must tell the two answers apart before anything is said."""
MOST = 99.0
"""Where all witnesses say exactly the same the statistic has no bound."""


Look = Callable[[int, Sequence[Episode]], dict[str, float]]
"""What is seen of an update's scored answers."""


@dataclass(frozen=True)
class HeldOut:
    """A judge, what it compares answers with, and what it said so far.

    Attributes:
        judge: It has no part in the reward.
        prompts: By id.
        criteria: What the judge is asked, by prompt id.
        references: An answer of the SFT model, by prompt id; prompts that have none are not looked at.
        answers: The most that are compared in an update.
        path: Where every comparison is written.
    """

    judge: Judge
    prompts: Mapping[str, PromptRow]
    criteria: Mapping[str, tuple[Criterion, ...]]
    references: Mapping[str, str]
    answers: int
    path: Path

    def look(self, step: int, episodes: Sequence[Episode], reward: RewardFunction) -> dict[str, float]:
        """Columns of `metrics.jsonl` for update `step`, whose answers these are, all of them scored by `reward`.

        `held_out_p`: the mean P(an answer is better than the SFT model's). `held_out`: see `agreement`; not there as long as the
        reward tells too few answers apart.
        """
        rows = list(read_jsonl(self.path))
        had = [row for row in rows if row["step"] < step]
        if len(had) < len(rows):  # a resumed run does these updates again
            write_jsonl(self.path, had)
        known = [episode for episode in episodes if episode.prompt_id in self.references]
        if not known:
            return {}
        count = min(self.answers, len(known))
        # Spread over the update: answers to one prompt stand side by side.
        rows = self._compare(step, [known[i * len(known) // count] for i in range(count)], reward)
        with JsonlWriter(self.path) as writer:
            for row in rows:
                writer.write(row)
        judged = [row["p"] for row in rows if row["p"] is not None]
        agreed = agreement([row for row in had if row["step"] > step - WINDOW] + rows)
        return ({"held_out_p": fmean(judged)} if judged else {}) | ({} if agreed is None else {"held_out": agreed})

    def _compare(self, step: int, episodes: Sequence[Episode], reward: RewardFunction) -> list[Row]:
        gains = self._gains(episodes, reward)
        pairs = []
        for episode in episodes:
            prompt, reference = self.prompts[episode.prompt_id], self.references[episode.prompt_id]
            if episode.text != reference:  # of the same words nobody need be asked
                pairs.append(Comparison(episode.id, prompt.messages, episode.text, reference, self.criteria[prompt.id]))
        said = {judgment.id: judgment for judgment in self.judge.compare(pairs)}
        rows: list[Row] = []
        for episode, gain in zip(episodes, gains, strict=True):
            row: Row = {"id": episode.id, "step": step, "prompt_id": episode.prompt_id, "gain": gain}
            if judgment := said.get(episode.id):
                of = {verdict.principle_id: verdict.p for verdict in judgment.verdicts}
                row |= {"p": judgment.p, "principles": of, "tokens": judgment.tokens, "cost_usd": judgment.cost_usd}
                row |= {"error": judgment.error}
            else:
                row |= {"p": 0.5, "principles": {}, "tokens": 0, "cost_usd": 0.0, "error": None}
            rows.append(row)
        return rows

    def _gains(self, episodes: Sequence[Episode], reward: RewardFunction) -> list[float | None]:
        """What each answer earns beyond the SFT model's; None where that has no score."""
        ids = sorted({episode.prompt_id for episode in episodes})
        scores = reward([(self.prompts[id].messages, self.references[id]) for id in ids])
        earned = dict(zip(ids, scores, strict=True))
        gains = [episode.score - earned[episode.prompt_id] for episode in episodes]
        return [gain if math.isfinite(gain) else None for gain in gains]


def looking(held_out: HeldOut | None, reward: RewardFunction) -> Look:
    """`held_out` looking at answers that `reward` scores; without one, nothing is seen."""
    return (lambda step, episodes: {}) if held_out is None else partial(held_out.look, reward=reward)


def agreement(rows: Sequence[Row]) -> float | None:
    """How sure it is that the judge likes what the reward likes: a t-statistic, 0 where they have nothing to do with each other.

    It is of gain * (2p - 1), gain being what an answer earns beyond the SFT model's and p the judge's P(it is better), averaged
    over the answers to a prompt first, as those are no independent witnesses. None where fewer than `FEWEST` are not 0.
    """
    products: dict[str, list[float]] = {}
    for row in rows:
        if row["gain"] is not None and row["p"] is not None:
            products.setdefault(row["prompt_id"], []).append(row["gain"] * (2 * row["p"] - 1))
    values = [fmean(found) for found in products.values()]
    if sum(value != 0 for value in values) < FEWEST:
        return None
    return max(-MOST, min(MOST, fmean(values) / max(stdev(values) / math.sqrt(len(values)), 1e-12)))
