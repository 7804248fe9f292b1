"""Pairs by score and length: the tiers on worked numbers, and a policy that is reviewed in points."""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from math import comb
from pathlib import Path

import pytest

from rlaif_dpo.engines.base import Request
from rlaif_dpo.errors import UserError
from rlaif_dpo.files import read_jsonl
from rlaif_dpo.judges.additive import AdditiveJudge
from rlaif_dpo.judges.base import Comparison, Judgment
from rlaif_dpo.judges.logits import sigmoid
from rlaif_dpo.messages import user
from rlaif_dpo.pairs.candidates import CANDIDATE_REASONS, Candidate, choose_pairs
from rlaif_dpo.pairs.run import PairsSummary, run_pairs
from rlaif_dpo.pairs.tiered import CONTRADICTED, by_tiers, scores_of
from rlaif_dpo.progress import Silent
from rlaif_dpo.prompts.rows import PromptRow
from rlaif_dpo.recipe.pairs import Pairs
from rlaif_dpo.recipe.schema import JudgeSettings
from tests.pairs.test_run import CONSTITUTION, PROMPTS, contents, engine, judge
from tests.scripts import Killed, LimitedEngine

PROMPT = PromptRow("p", (user("plain"),), ("plain",))


def candidates(*lengths: int) -> list[Candidate]:
    return [Candidate(number, f"answer {number}", tokens) for number, tokens in enumerate(lengths, start=1)]


SCORED = list(zip((5.0, 4.6, 4.2, 2.0, 1.4, 1.0), candidates(90, 40, 20, 60, 80, 30), strict=True))


@pytest.mark.parametrize(
    ("tier", "chosen", "rejected"),
    [
        (0.0, 1, 6),  # the best over the worst
        (0.1, 2, 5),  # [4.6, 5]: 90 and 40 tokens; [1, 1.4]: 80 and 30
        (0.2, 3, 5),  # [4.2, 5]: 20 is the shortest; [1, 1.8]
        (0.25, 3, 5),  # [1, 2]: 60, 80 and 30
        (0.49, 3, 5),
    ],
)
def test_the_shortest_of_the_best_over_the_longest_of_the_worst(tier: float, chosen: int, rejected: int):
    """Scores 5 to 1, a range of 4: the tiers are [5 - 4 rho, 5] and [1, 1 + 4 rho]."""
    found = by_tiers(SCORED, tier)
    assert found is not None and (found[0].number, found[1].number) == (chosen, rejected)


def test_equal_lengths_give_the_earlier_and_equal_scores_nothing():
    found = by_tiers(list(zip((2.0, 2.0, 1.0, 1.0), candidates(7, 7, 7, 7), strict=True)), 0.3)
    assert found is not None and (found[0].number, found[1].number) == (1, 3)
    assert by_tiers(list(zip((2.0, 2.0 + 1e-12), candidates(7, 9), strict=True)), 0.3) is None
    assert by_tiers([], 0.3) is None


def test_scores_follow_from_comparisons():
    """Scores 3, 2, 2, 0, compared by sigmoid(s_a - s_b): (4 s_a - 7) / 3, the mean distance from the others."""
    answers, scores = candidates(1, 2, 3, 4), {1: 3.0, 2: 2.0, 3: 2.0, 4: 0.0}
    every = choose_pairs(PROMPT, answers, comb(4, 2), 0)
    found = scores_of(every, {pair.id: sigmoid(scores[pair.first.number] - scores[pair.second.number]) for pair in every})
    assert {candidate.number: score for score, candidate in found} == pytest.approx({1: 5 / 3, 2: 1 / 3, 3: 1 / 3, 4: -7 / 3})
    lost = {pair.id: None for pair in every}
    assert scores_of(every, lost) == []


def reply(request: Request) -> str:
    """Candidate n of 4 is worth (2, 5, 5, 1) points, of which the second is the longer one."""
    asked = request.messages[0]["content"]
    if "Give the reply points" in asked:
        score = {"a": 2, "b": 5, "c": 5, "d": 1}[asked.split("Reply: ")[1][0]]
        return f"Score: {score if 'equal' not in asked.split('Reply: ')[0] else 3}"
    n = int(request.id.rsplit("/", 1)[1])
    return "abcd"[n - 1] + " word" * (1, 9, 4, 2)[n - 1]


def run(folder: Path, life: int = -1, tier: float = 0.2, fates: tuple[str, ...] = ("plain",) * 8) -> PairsSummary:
    prompts = [PromptRow(f"p{n}", (user(f"{fate} {n}"),), ("plain",)) for n, fate in enumerate(fates)]
    policy = LimitedEngine(reply, life, name="policy")
    settings = JudgeSettings(kind="additive", rationales=2)
    pairs = Pairs(candidates=4, per_prompt=1, length_tier=tier, max_new_tokens=100)
    return run_pairs(prompts, CONSTITUTION, pairs, settings, policy, AdditiveJudge(policy, settings), folder, 0, Silent())


def test_a_policy_that_is_reviewed(tmp_path: Path):
    """Two answers have 5 points; the shorter is chosen, against 1 point. p = sigmoid(4), the pair's own."""
    summary = run(tmp_path)
    rows = list(read_jsonl(tmp_path / "preferences.jsonl"))
    assert len(rows) == 8 == summary.funnel["pairs"] and summary.funnel["judged"] == 8 * 6
    for row in rows:
        assert row["candidates"] == [3, 4] and row["p"] == pytest.approx(sigmoid(4)) and row["builder"] == "judged"
        assert row["scores"][0] - row["scores"][1] == pytest.approx(4 * 4 / 3)
    assert summary.hygiene.chosen_tokens == 5 and summary.hygiene.rejected_tokens == 3


def test_without_a_tier_the_best_may_be_the_longest(tmp_path: Path):
    """At rho = 0 the two with 5 points are both the best: the shorter all the same. Equal points everywhere are a tie."""
    summary = run(tmp_path, tier=0.0, fates=("plain", "equal"))
    (row,) = read_jsonl(tmp_path / "preferences.jsonl")
    assert row["candidates"] == [3, 4] and summary.funnel["dropped: tie"] == 1 and summary.funnel["pairs"] == 2


def test_a_killed_one_goes_on(tmp_path: Path):
    """32 candidates, then four replies a prompt, reviewed twice."""
    expected = run(tmp_path / "whole")
    for life in range(0, 32 + 64, 19):
        with pytest.raises(Killed):
            run(tmp_path / str(life), life)
        assert not (tmp_path / str(life) / "preferences.jsonl").exists()
        assert run(tmp_path / str(life)) == expected and contents(tmp_path / str(life)) == contents(tmp_path / "whole")


def test_each_fate_ends_where_it_should(tmp_path: Path):
    """The fates of test_run, twice each, under a judge that compares: all but the plain ones are dropped, for one reason each."""
    settings = Pairs(candidates=4, per_prompt=1, length_tier=0.2, max_new_tokens=150, min_confidence=0.6)
    found = run_pairs(PROMPTS, CONSTITUTION, settings, JudgeSettings(), engine(), judge(), tmp_path, 0, Silent()).funnel
    dropped = {key.removeprefix("dropped: "): count for key, count in found.items() if key.startswith("dropped: ")}
    few = {"fewer than two distinct candidates": 8, "no principle applies": 2}
    # a judge that breaks or has little mass; no difference, in nearly the same words or in others; sigmoid(.3) = .57 is unsure
    of_pairs = {"no judgment": 4, "tie": 4, "low confidence": 2, "near-duplicate pair": 0, CONTRADICTED: 0}
    assert {why: dropped[why] for why in (*few, *of_pairs)} == few | of_pairs
    assert found["candidates"] == found["usable candidates"] + sum(dropped[why] for why in CANDIDATE_REASONS) == 88
    assert found["pairs"] == 12 == found["kept"] + sum(of_pairs.values()) and found["judged"] == 12 * 6
    assert {row["candidates"][0] for row in read_jsonl(tmp_path / "preferences.jsonl")} == {4}  # the one that is kindest


class Fixed:
    """A judge with these logits of "the lower number is better", else 3; it need not agree with itself."""

    name = "fixed"

    def __init__(self, logits: dict[str, float]) -> None:
        self._logits = logits

    def compare(self, comparisons: Sequence[Comparison], skip: Collection[str] = ()) -> Iterator[Judgment]:
        for comparison in comparisons:
            first, second = comparison.id.rpartition("/")[2].split("-")
            logit = self._logits.get(f"{min(first, second)}-{max(first, second)}", 3.0)
            yield Judgment(comparison.id, sigmoid(logit if first < second else -logit), (), self.name, "hard", 0)


def test_a_comparison_that_contradicts_the_scores_makes_no_pair(tmp_path: Path):
    """Answer 1 has (5 + 5 - 1) / 3 = 3, and 4 has (1 - 3 - 3) / 3 = -5/3, the least with 3: but 4 is better than 1 by 1."""
    settings = Pairs(candidates=4, per_prompt=1, length_tier=0.0, max_new_tokens=100)
    prompts = [replace(PROMPT, id="sure"), replace(PROMPT, id="other")]
    policy = LimitedEngine(lambda r: f"answer{' word' * int(r.id[-1])}", name="policy")
    with pytest.raises(UserError, match=f"'{CONTRADICTED}' .2 times"):
        run_pairs(
            prompts, CONSTITUTION, settings, JudgeSettings(), policy, Fixed({"1-2": 5.0, "1-3": 5.0, "1-4": -1.0}), tmp_path, 0,
            Silent(),
        )  # fmt: skip
