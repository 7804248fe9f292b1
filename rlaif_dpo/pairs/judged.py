"""The builder `judged`: candidates of the policy, compared by a judge, every candidate and judgment on disk."""

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rlaif_dpo.files import Journal, write_jsonl
from rlaif_dpo.judges.base import Comparison, Criterion
from rlaif_dpo.judges.criteria import needs_principles
from rlaif_dpo.judges.journal import judge_rows
from rlaif_dpo.pairs.anchored import anchored
from rlaif_dpo.pairs.builder import Materials, Output
from rlaif_dpo.pairs.candidates import (
    CANDIDATE_REASONS,
    NEAR_DUPLICATE,
    TOO_FEW,
    Pair,
    candidate_of,
    candidates_of,
    choose_pairs,
    sample_candidates,
    similarity,
)
from rlaif_dpo.pairs.preferences import (
    LOW_CONFIDENCE,
    NO_JUDGMENT,
    NO_PRINCIPLE,
    TIE,
    pair_criteria,
    preference_row,
    why_dropped,
)
from rlaif_dpo.pairs.tiered import tiered
from rlaif_dpo.prompts.rows import PromptRow

JUDGED_AT_ONCE = 1024
"""Pairs in a block: each is up to twice as many prompts as there are principles."""
PAIR_REASONS = (NEAR_DUPLICATE, NO_PRINCIPLE, NO_JUDGMENT, TIE, LOW_CONFIDENCE)


def judged(m: Materials, out: Output) -> dict[str, int]:
    """On-policy pairs in prompt order, with the judge's p as it gave it: a pair at p = .6 is a row with p = .6.

    With an anchor they are `anchored`, with a length tier `tiered`.

    Resumes from {candidates,judgments}.jsonl. Memory holds the places of the pairs, and one block of rows.
    """
    if m.anchor is not None:
        return anchored(m, out)
    if m.settings.length_tier is not None:
        return tiered(m, out)
    assert m.judge is not None
    with Journal(m.folder / "candidates.jsonl") as candidates, Journal(m.folder / "judgments.jsonl") as judgments:
        sample_candidates(m.prompts, m.settings, m.engine, candidates, m.seed, m.progress)
        work = _Work(m, candidates)
        chosen = [one for place, prompt in enumerate(m.prompts) for one in work.choose(place, prompt)]
        asked = [one for one in chosen if one.unworthy is None]
        with m.progress.task("judgments", len(asked)) as task:
            for start in range(0, len(asked), JUDGED_AT_ONCE):
                block = [work.comparison(one) for one in asked[start : start + JUDGED_AT_ONCE]]
                judge_rows(judgments, block, m.judge, task)
        write_jsonl(m.folder / "judgments.jsonl", (judgments[work.pair(m.prompts[one.prompt], one).id] for one in asked))
        usable = work.write(chosen, judgments, out)
    return {
        "candidates": len(m.prompts) * m.settings.candidates,
        **out.dropped(*CANDIDATE_REASONS),
        "usable candidates": usable,
        **out.dropped(TOO_FEW),
        "pairs": len(chosen),
        "judged": len(asked),
        **out.dropped(*PAIR_REASONS),
    }


@dataclass(frozen=True, slots=True)
class Chosen:
    """A pair by its place, which takes little memory: its prompt's, its candidates' numbers, and why it goes unjudged, if so."""

    prompt: int
    first: int
    second: int
    unworthy: str | None


@dataclass(frozen=True)
class _Work:
    """The pairs of prompts by their places."""

    materials: Materials
    candidates: Journal

    def choose(self, place: int, prompt: PromptRow) -> Iterator[Chosen]:
        """The pairs of a prompt."""
        m = self.materials
        usable, _ = candidates_of(prompt, m.settings, self.candidates)
        for pair in choose_pairs(prompt, usable, m.settings.per_prompt, m.seed):
            unworthy = None
            if similarity(pair.first.text, pair.second.text) > m.settings.max_similarity:
                unworthy = NEAR_DUPLICATE
            elif not self._criteria(pair) and needs_principles(m.judge_settings):
                unworthy = NO_PRINCIPLE
            yield Chosen(place, pair.first.number, pair.second.number, unworthy)

    def pair(self, prompt: PromptRow, chosen: Chosen) -> Pair:
        first, second = (candidate_of(self.candidates[f"{prompt.id}/{n}"]) for n in (chosen.first, chosen.second))
        return Pair(prompt, first, second)

    def comparison(self, chosen: Chosen) -> Comparison:
        """What the judge is asked."""
        pair = self.pair(self.materials.prompts[chosen.prompt], chosen)
        return Comparison(pair.id, pair.prompt.messages, pair.first.text, pair.second.text, self._criteria(pair))

    def _criteria(self, pair: Pair) -> tuple[Criterion, ...]:
        return pair_criteria(self.materials.constitution, pair, self.materials.judge_settings, self.materials.seed)

    def write(self, chosen: Sequence[Chosen], judgments: Journal, out: Output) -> int:
        """Keep and drop, prompt by prompt; how many candidates were usable."""
        m, count = self.materials, 0
        left = deque(chosen)
        for place, prompt in enumerate(m.prompts):
            usable, dropped = candidates_of(prompt, m.settings, self.candidates)
            count += len(usable)
            if len(usable) < 2:
                dropped.append({"id": prompt.id, "prompt_id": prompt.id, "reason": TOO_FEW})
            while left and left[0].prompt == place:
                one = left.popleft()
                pair = self.pair(prompt, one)
                judgment = judgments[pair.id] if one.unworthy is None else None
                reason = one.unworthy or why_dropped(judgment["p"] if judgment else None, m.settings.min_confidence)
                if judgment and reason is None:
                    out.keep(preference_row(pair, judgment, m.provenance))
                else:
                    error = judgment["error"] if judgment else None
                    dropped.append({"id": pair.id, "prompt_id": prompt.id, "reason": reason, "error": error})
            for row in dropped:
                out.drop(row)
        return count
