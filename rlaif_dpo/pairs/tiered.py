"""Judged pairs by score and length: the shortest of the best answers over the longest of the worst (Wu et al. 2024)."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from math import comb
from statistics import fmean

from rlaif_dpo.files import Journal, Row, write_jsonl
from rlaif_dpo.judges.base import Comparison
from rlaif_dpo.judges.criteria import needs_principles
from rlaif_dpo.judges.journal import judge_rows
from rlaif_dpo.judges.logits import logit
from rlaif_dpo.pairs.builder import Materials, Output
from rlaif_dpo.pairs.candidates import (
    CANDIDATE_REASONS,
    NEAR_DUPLICATE,
    TOO_FEW,
    Candidate,
    Pair,
    candidates_of,
    choose_pairs,
    sample_candidates,
    similarity,
)
from rlaif_dpo.pairs.preferences import LOW_CONFIDENCE, NO_JUDGMENT, NO_PRINCIPLE, TIE, pair_criteria, preference_row, why_dropped

CONTRADICTED = "its own comparison contradicts the scores"
REASONS = (NO_JUDGMENT, TIE, NEAR_DUPLICATE, CONTRADICTED, LOW_CONFIDENCE)
PROMPTS_AT_ONCE = 256
SAME = 1e-9
"""Scores nearer than this, in nats, are equal: they come from probabilities."""


def tiered(m: Materials, out: Output) -> dict[str, int]:
    """One pair of each prompt, chosen by `by_tiers` once every answer was compared with every other; p is the pair's own.

    Resumes from {candidates,judgments}.jsonl. A row has the `scores` of (chosen, rejected), in nats.
    """
    assert m.judge is not None
    with Journal(m.folder / "candidates.jsonl") as candidates, Journal(m.folder / "judgments.jsonl") as judgments:
        sample_candidates(m.prompts, m.settings, m.engine, candidates, m.seed, m.progress)
        asked: list[str] = []
        usable_count = pairs = 0
        with m.progress.task("judgments", len(m.prompts) * comb(m.settings.candidates, 2)) as task:
            for start in range(0, len(m.prompts), PROMPTS_AT_ONCE):
                comparisons: list[Comparison] = []
                compared: dict[str, list[Pair]] = {}
                for prompt in m.prompts[start : start + PROMPTS_AT_ONCE]:
                    usable, dropped = candidates_of(prompt, m.settings, candidates)
                    usable_count += len(usable)
                    every = choose_pairs(prompt, usable, comb(len(usable), 2), m.seed)
                    wanted = [
                        Comparison(
                            of.id, prompt.messages, of.first.text, of.second.text,
                            pair_criteria(m.constitution, of, m.judge_settings, m.seed),
                        )
                        for of in every
                    ]  # fmt: skip
                    if not every:
                        dropped.append({"id": prompt.id, "prompt_id": prompt.id, "reason": TOO_FEW})
                    elif needs_principles(m.judge_settings) and not wanted[0].criteria:  # that depends on the prompt alone
                        dropped.append({"id": prompt.id, "prompt_id": prompt.id, "reason": NO_PRINCIPLE})
                    else:
                        compared[prompt.id] = every
                        comparisons += wanted
                    for row in dropped:
                        out.drop(row)
                judge_rows(judgments, comparisons, m.judge, task)
                asked += [comparison.id for comparison in comparisons]
                pairs += len(compared)
                for every in compared.values():
                    _write(every, judgments, m, out)
        write_jsonl(m.folder / "judgments.jsonl", (judgments[id] for id in asked))
    return {
        "candidates": len(m.prompts) * m.settings.candidates,
        **out.dropped(*CANDIDATE_REASONS),
        "usable candidates": usable_count,
        **out.dropped(TOO_FEW, NO_PRINCIPLE),
        "judged": len(asked),
        "pairs": pairs,
        **out.dropped(*REASONS),
    }


def scores_of(every: Sequence[Pair], p_of: Mapping[str, float | None]) -> list[tuple[float, Candidate]]:
    """Each candidate's score: the mean logit of P(it is the better one) over its comparisons that were had, in nats.

    Where every comparison was had and each is the difference of two scores (a judge that scores replies by themselves), this is
    that score up to a shift and a factor, the same for all: logit p_ab = s_a - s_b gives s_a n / (n - 1) less a constant.
    """
    logits: defaultdict[Candidate, list[float]] = defaultdict(list)
    for pair in every:
        if (p := p_of[pair.id]) is not None:
            logits[pair.first].append(logit(p))
            logits[pair.second].append(-logit(p))
    return [(fmean(of), candidate) for candidate, of in logits.items()]


def by_tiers(scored: Sequence[tuple[float, Candidate]], tier: float) -> tuple[Candidate, Candidate] | None:
    """(chosen, rejected) of (score, candidate); None where all scores are equal, or there are none.

    With S the best score, s the worst and rho = `tier`, chosen is the shortest of the candidates in [(1 - rho) S + rho s, S] and
    rejected the longest in [s, (1 - rho) s + rho S], in tokens; of equals the earlier candidate. With rho below one half no
    candidate is in both (Wu et al. 2024, 2407.19594, length control).
    """
    if not scored:
        return None
    best, worst = max(score for score, _ in scored), min(score for score, _ in scored)
    if best - worst <= SAME:
        return None
    reach = tier * (best - worst) + SAME
    top = [candidate for score, candidate in scored if score >= best - reach]
    bottom = [candidate for score, candidate in scored if score <= worst + reach]
    return min(top, key=lambda c: (c.tokens, c.number)), min(bottom, key=lambda c: (-c.tokens, c.number))


def _write(every: Sequence[Pair], judgments: Mapping[str, Row], m: Materials, out: Output) -> None:
    """Keep the pair of a prompt, or drop it."""
    assert m.settings.length_tier is not None
    prompt = every[0].prompt
    scored = scores_of(every, {pair.id: judgments[pair.id]["p"] for pair in every})
    if (found := by_tiers(scored, m.settings.length_tier)) is None:
        error = next((judgments[pair.id]["error"] for pair in every), None)
        out.drop({"id": prompt.id, "prompt_id": prompt.id, "reason": TIE if scored else NO_JUDGMENT, "error": error})
        return
    chosen, rejected = found
    pair = next(pair for pair in every if {pair.first, pair.second} == {chosen, rejected})
    judgment = judgments[pair.id]
    if (reason := _fault(pair, chosen, judgment["p"], m)) is None:
        by_candidate = {candidate: score for score, candidate in scored}
        row = preference_row(pair, judgment, m.provenance | {"scores": [by_candidate[chosen], by_candidate[rejected]]})
        out.keep(row)
    else:
        out.drop({"id": pair.id, "prompt_id": prompt.id, "reason": reason, "error": judgment["error"]})


def _fault(pair: Pair, chosen: Candidate, p: float | None, m: Materials) -> str | None:
    """Why the pair makes no preference."""
    if similarity(pair.first.text, pair.second.text) > m.settings.max_similarity:
        return NEAR_DUPLICATE
    if p is not None and p != 0.5 and (p > 0.5) != (pair.first == chosen):
        return CONTRADICTED
    return why_dropped(p, m.settings.min_confidence)
