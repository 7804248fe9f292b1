"""The builder `meta_judged`: the policy's own judgments, ranked by the policy, train it to judge (Wu et al. 2024, 2407.19594)."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from math import comb

import numpy as np

from rlaif_dpo.evaluate.elo import bradley_terry
from rlaif_dpo.files import Journal, Row, read_journal, write_jsonl
from rlaif_dpo.judges.additive import score_of
from rlaif_dpo.judges.base import Comparison, weakest
from rlaif_dpo.judges.journal import judge_rows
from rlaif_dpo.judges.logits import sigmoid
from rlaif_dpo.judges.meta import META, Game, Judged, first_wins, game_of, judged_of, most_judgments
from rlaif_dpo.judges.pairwise import PairwiseJudge
from rlaif_dpo.messages import assistant
from rlaif_dpo.pairs.builder import Materials, Output
from rlaif_dpo.pairs.candidates import Candidate, Pair, candidate_of
from rlaif_dpo.pairs.preferences import LOW_CONFIDENCE, NO_JUDGMENT, TIE, pair_criteria, why_dropped
from rlaif_dpo.prompts.rows import PromptRow
from rlaif_dpo.recipe.schema import JudgeSettings
from rlaif_dpo.seeding import content_hash, derive_rng

ALL_ALIKE = "fewer than two different judgments"
REASONS = (NO_JUDGMENT, TIE, LOW_CONFIDENCE)
PROMPTS_AT_ONCE = 128
SAME = 1e-9
"""Strengths nearer than this, in nats, are equal."""
LEAST = 1e-6
"""The part of a game that both sides of one are given: a judgment that won all of its games has a finite strength."""


def meta_judged(m: Materials, out: Output) -> dict[str, int]:
    """For each prompt two judgments of one question, the best over the worst, from what `judged` left in judgments.jsonl.

    The judgments of a question are compared with each other, in both orders, by `m.engine`, and ranked by `strengths`; p is the
    Bradley-Terry probability that the chosen one is better than the rejected. Resumes from meta_judgments.jsonl.
    """
    judge = PairwiseJudge(m.engine, JudgeSettings(orders=m.judge_settings.orders, min_mass=m.judge_settings.min_mass), m.seed)
    with (
        Journal(m.folder / "candidates.jsonl") as candidates,
        Journal(m.folder / "judgments.jsonl") as judgments,
        Journal(m.folder / "meta_judgments.jsonl") as metas,
    ):
        judged: defaultdict[str, list[str]] = defaultdict(list)
        for id in judgments:
            judged[id.rpartition("/")[0]].append(id)
        work = _Work(m, candidates, read_journal(m.folder / "anchors.jsonl"), judgments, judged)
        asked: list[str] = []
        games: list[Game] = []
        with m.progress.task("meta-judgments", len(judged) * comb(most_judgments(m.judge_settings), 2)) as task:
            for start in range(0, len(m.prompts), PROMPTS_AT_ONCE):
                found = [(prompt, work.question(prompt)) for prompt in m.prompts[start : start + PROMPTS_AT_ONCE]]
                block = [comparison for prompt, of in found if of is not None for comparison in comparisons_of(prompt, of)]
                judge_rows(metas, block, judge, task)
                asked += [comparison.id for comparison in block]
                games += [game for comparison in block if (game := game_of(metas[comparison.id], 0, 1)) is not None]
        write_jsonl(m.folder / "meta_judgments.jsonl", (metas[id] for id in asked))
        share = first_wins(games)
        for prompt in m.prompts:
            if prompt.id in judged:
                work.write(prompt, metas, 0.5 if share is None else share, out)
    return {
        "judged prompts": len(judged),
        **out.dropped(ALL_ALIKE),
        "meta-judgments": len(asked),
        "pairs": len(judged) - out.counts[ALL_ALIKE],
        **out.dropped(*REASONS),
    }


def comparisons_of(prompt: PromptRow, judged: Judged) -> list[Comparison]:
    """What the meta-judge is asked: each two judgments of a question, which is their conversation."""
    names = [content_hash(text, 6) for text in judged.judgments]
    return [
        Comparison(f"{prompt.id}/{judged.id}/{one}-{other}", judged.messages, first, second, (META,))
        for (one, first), (other, second) in combinations(zip(names, judged.judgments, strict=True), 2)
    ]


def strengths(count: int, games: Sequence[Game], first: float) -> list[float] | None:
    """The strength of each of `count` judgments in nats, their mean 0 (Elo is 400 / ln 10 of it); None without games between all.

    `first` is the share of all wins that went to the judgment shown first. A win counts 1 - `first` there and `first` for the one
    shown second: of a judge who likes the first place, what it says against it counts more.
    """
    wins, met = np.zeros((count, count)), np.eye(count, dtype=bool)
    for game in games:
        i, j = game.first, game.second
        wins[i, j] += (1 - first) * game.p_first + first * game.p_second
        wins[j, i] += (1 - first) * (1 - game.p_second) + first * (1 - game.p_first)
        met[i, j] = met[j, i] = True
    if not np.linalg.matrix_power(met.astype(int), count).all():
        return None
    return [float(strength) for strength in bradley_terry(wins, LEAST * met)]


@dataclass(frozen=True)
class _Work:
    """What `judged` asked and was told.

    Attributes:
        materials: As the builder has them.
        candidates: The rows of the policy's answers.
        anchors: Those of an anchor's answers, which are numbered on from the candidates.
        judgments: The rows of the judgments.
        judged: The ids of the judgments by prompt.
    """

    materials: Materials
    candidates: Mapping[str, Row]
    anchors: Mapping[str, Row]
    judgments: Mapping[str, Row]
    judged: Mapping[str, Sequence[str]]

    def question(self, prompt: PromptRow) -> Judged | None:
        """The question about the prompt's answers whose judgments vary most, of equals one that is drawn; None without two.

        Judgments that did not end are left out, so none that is learnt from is longer than `judge.rationale_tokens`.
        """
        m, limit = self.materials, self.materials.judge_settings.rationale_tokens
        found = {
            judged.id: judged
            for id in self.judged.get(prompt.id, ())
            for judged in judged_of(self._comparison(prompt, id), self.judgments[id], m.judge_settings)
        }
        drawn = derive_rng(m.seed, "meta", prompt.id).sample(sorted(found), len(found))
        for judged in sorted((found[id] for id in drawn), key=lambda judged: -judged.variance):
            ended = tuple(text for text in judged.judgments if text and m.count_tokens(text) < limit)
            if len(ended) > 1:
                return replace(judged, judgments=ended)
        return None

    def write(self, prompt: PromptRow, metas: Mapping[str, Row], first: float, out: Output) -> None:
        """Keep the pair of a prompt, or drop it."""
        judged = self.question(prompt)
        if judged is None:
            out.drop({"id": f"meta_judged/{prompt.id}", "prompt_id": prompt.id, "reason": ALL_ALIKE})
            return
        count = len(judged.judgments)
        rows = [metas[comparison.id] for comparison in comparisons_of(prompt, judged)]
        places = zip(rows, combinations(range(count), 2), strict=True)
        games = [game for meta, (i, j) in places if (game := game_of(meta, i, j)) is not None]
        found = strengths(count, games, first)
        gap = max(found) - min(found) if found else None
        p = None if gap is None else sigmoid(gap) if gap > SAME else 0.5
        reason = why_dropped(p, self.materials.settings.min_confidence)
        row = {"id": f"meta_judged/{prompt.id}/{judged.id}", "prompt_id": prompt.id}
        if found is None or reason is not None:
            out.drop(row | {"reason": reason, "error": rows[0]["error"]})
            return
        chosen, rejected = (judged.judgments[found.index(of)] for of in (max(found), min(found)))
        out.keep(
            {
                **row,
                "prompt": list(judged.messages),
                "chosen": [assistant(chosen)],
                "rejected": [assistant(rejected)],
                "p": p,
                "principle_ids": [],
                "judge": f"{self.materials.engine.name}:meta",
                "source": weakest(meta["source"] for meta in rows),
                "judgments": count,
                "scores": [score_of(chosen), score_of(rejected)],
                "lengths": [self.materials.count_tokens(text) for text in (chosen, rejected)],
                **self.materials.provenance,
            }
        )

    def _comparison(self, prompt: PromptRow, id: str) -> Comparison:
        """What the judge was asked."""
        m = self.materials
        first, second = (self._answer(prompt, int(number)) for number in id.rpartition("/")[2].split("-"))
        criteria = pair_criteria(m.constitution, Pair(prompt, first, second), m.judge_settings, m.seed)
        return Comparison(id, prompt.messages, first.text, second.text, criteria)

    def _answer(self, prompt: PromptRow, number: int) -> Candidate:
        beyond = number - self.materials.settings.candidates
        row = self.anchors[f"{prompt.id}/{beyond}"] if beyond > 0 else self.candidates[f"{prompt.id}/{number}"]
        return replace(candidate_of(row), number=number)
