"""Pairs of judgments: ranks on worked numbers, and a policy that answers, reviews its answers and compares its reviews."""

from collections.abc import Sequence
from math import log
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rlaif_dpo.engines.base import OptionRequest, Request
from rlaif_dpo.errors import UserError
from rlaif_dpo.files import Row, read_jsonl
from rlaif_dpo.judges.additive import AdditiveJudge, additive_messages
from rlaif_dpo.judges.base import Comparison
from rlaif_dpo.judges.criteria import criteria_for
from rlaif_dpo.judges.logits import sigmoid
from rlaif_dpo.judges.meta import Game, first_wins
from rlaif_dpo.judges.pairwise import PairwiseJudge
from rlaif_dpo.messages import user
from rlaif_dpo.pairs.meta_judged import ALL_ALIKE, strengths
from rlaif_dpo.pairs.run import PairsSummary, run_pairs
from rlaif_dpo.progress import Silent
from rlaif_dpo.prompts.rows import PromptRow
from rlaif_dpo.recipe.pairs import Builders, Pairs
from rlaif_dpo.recipe.schema import JudgeSettings
from tests.pairs.test_run import CONSTITUTION
from tests.scripts import Killed, LimitedEngine

FILES = ("candidates.jsonl", "judgments.jsonl", "meta_judgments.jsonl", "made.jsonl", "preferences.jsonl", "dropped.jsonl")


def games(scores: Sequence[float], position: float = 0.0) -> list[Game]:
    """Every two of `scores`, by a judge whose logit is their difference, and `position` for standing first."""
    pairs = [(i, j) for i in range(len(scores)) for j in range(i + 1, len(scores))]
    return [Game(i, j, sigmoid(scores[i] - scores[j] + position), sigmoid(scores[i] - scores[j] - position)) for i, j in pairs]


def test_without_a_bias_the_strengths_are_the_scores():
    """Each of P(i beats j) = sigmoid(s_i - s_j) is met exactly by s itself; both places weigh one half."""
    played = games([1.0, 0.0, -1.0])
    first = first_wins(played)
    assert first == pytest.approx(0.5)
    assert strengths(3, played, 0.5) == pytest.approx([1, 0, -1], abs=1e-5)


def test_what_is_said_against_the_place_that_wins_counts_more():
    """A difference of .5 and 3 for standing first: P = sigmoid(3.5) = .9707 shown first, sigmoid(-2.5) = .0759 shown second.

    The first place wins (.9707 + .9241) / 2 = .9474. The better one has .0526 * .9707 + .9474 * .0759 = .1229 wins, the other
    .0526 * .9241 + .9474 * .0293 = .0764: .617 of both, near sigmoid(.5) = .622. In plain sums it has 1.0466 of 2: .523.
    """
    played = games([0.5, 0.0], position=3.0)
    first = first_wins(played)
    assert first == pytest.approx(0.9474, abs=1e-4)
    better, worse = strengths(2, played, first) or (0, 0)
    assert sigmoid(better - worse) == pytest.approx(0.6168, abs=1e-3)
    plain = strengths(2, played, 0.5) or (0, 0)
    assert sigmoid(plain[0] - plain[1]) == pytest.approx(0.5233, abs=1e-3)


def test_hard_verdicts_weigh_as_in_the_paper():
    """First wins three of four games: a win counts .25 there, .75 in second place.

    Judgment 0 beats 1 in both orders, 1 and 2 each win when they stand first: wins 0-1 are 1 and 0, 1-2 are .25 each and a tie.
    So 0 is best; between 1 and 2, 2 lost to nobody. Nobody met 0 and 2: through 1 they compare.
    """
    played = [Game(0, 1, 1.0, 1.0), Game(1, 2, 1.0, 0.0)]
    assert first_wins(played) == pytest.approx(0.75)
    zero, one, two = strengths(3, played, 0.75) or (0, 0, 0)
    assert zero - one > 10 and two == pytest.approx(one)


def test_always_the_first_says_nothing_and_a_gap_is_no_rank():
    assert strengths(2, [Game(0, 1, 1.0, 0.0)], 1.0) == pytest.approx([0, 0])
    assert strengths(3, [Game(0, 1, 0.9, 0.9)], 0.5) is None


def test_order_does_not_matter():
    rng = np.random.default_rng(0)
    scores = list(rng.normal(size=6))
    found = strengths(6, games(scores, 1.0)[::-1], 0.6)
    assert found == pytest.approx(strengths(6, games(scores, 1.0), 0.6)) and np.argmax(found or []) == np.argmax(scores)


PROMPTS = [PromptRow(f"p{n}", (user(fate),), ("plain",)) for n, fate in enumerate(("plain", "plain", "alike", "plain"))]
SETTINGS = JudgeSettings(kind="additive", model="policy", rationales=4, rationale_tokens=30)


def reply(request: Request) -> str:
    """Candidate n says "kind" n times. Its review number k gives reasons k times; candidate 2 gets 2 or 4 points, others 2."""
    asked = request.messages[0]["content"]
    if "Give the reply points" not in asked:
        return "kind " * int(request.id.rsplit("/", 1)[1])
    of, k = asked.split("Reply: ")[1].split("\n")[0].count("kind"), int(request.id[-1])
    if "alike" in asked:
        return f"Score: {of}"
    if k == 3:
        return "because " * 40 + "Score: 2"  # did not end: too long to be learnt from
    return f"{'because ' * k}Score: {4 if of == 2 and k == 1 else 2}"


def choose(request: OptionRequest) -> tuple[float, float]:
    """Judge and meta-judge: one logit for each "kind" and each reason, and one for standing first."""
    a, b = request.messages[0]["content"].split("Reply A: ")[1].split("Reply B: ")
    marks = [sum(text.split("\n\n")[0].count(word) for word in ("kind", "because")) for text in (a, b)]
    p = sigmoid(marks[0] - marks[1] + 1.0)
    return log(p), log(1 - p)


class Mortal:
    """`choose` that kills after so many answers."""

    def __init__(self, life: int) -> None:
        self.life = life

    def __call__(self, request: OptionRequest) -> tuple[float, float]:
        if self.life == 0:
            raise Killed
        self.life -= 1
        return choose(request)


def run(folder: Path, life: int = -1, builders: dict[str, float] | None = None, **more: Any) -> PairsSummary:
    policy = LimitedEngine(reply, choose=Mortal(life), name="policy")
    judge_settings = more.pop("judge_settings", SETTINGS)
    judge = (AdditiveJudge if judge_settings.kind == "additive" else PairwiseJudge)(policy, judge_settings)
    shares = Builders.model_validate(builders or {"judged": 1.0, "meta_judged": 1.0})
    settings = Pairs(builders=shares, candidates=4, per_prompt=2, max_new_tokens=100, **more.pop("settings", {}))
    return run_pairs(PROMPTS, CONSTITUTION, settings, judge_settings, policy, judge, folder, 0, Silent(), **more)


def meta_rows(folder: Path) -> list[Row]:
    return [row for row in read_jsonl(folder / "made.jsonl") if row["builder"] == "meta_judged"]


def test_the_most_uncertain_answers_reviews_are_ranked_and_make_a_pair(tmp_path: Path):
    """Candidate 2's reviews have 2, 4 and 2 points, all others' 2: its question is chosen, and the most reasons over none.

    Reasons 0, 1, 2 differ by 1 and 2 nats, with one nat for standing first: three comparisons of three reviews, and p near
    sigmoid(2) = .88. All reviews of the prompt "alike" are the same.
    """
    summary, criteria = run(tmp_path), criteria_for(CONSTITUTION, PROMPTS[0], SETTINGS, 0)
    rows = meta_rows(tmp_path)
    assert [row["prompt_id"] for row in rows] == ["p0", "p1", "p3"]
    for row in rows:
        assert row["prompt"] == list(additive_messages(Comparison("", PROMPTS[0].messages, "", "", criteria), "kind kind"))
        assert row["chosen"][0]["content"] == "because because Score: 2" and row["rejected"][0]["content"] == "Score: 2"
        assert row["p"] == pytest.approx(sigmoid(2), abs=0.02) and row["scores"] == [2.0, 2.0] and row["judgments"] == 3
        assert (row["judge"], row["source"], row["policy"]) == ("policy:meta", "logprob", "policy")
        assert row["lengths"] == [4, 2]
    funnel = summary.funnel
    assert funnel["judged prompts (meta_judged)"] == 4 and funnel[f"dropped: {ALL_ALIKE} (meta_judged)"] == 1
    assert funnel["meta-judgments (meta_judged)"] == 9 and funnel["pairs (meta_judged)"] == 3 == funnel["kept (meta_judged)"]
    mixed = list(read_jsonl(tmp_path / "preferences.jsonl"))
    assert sorted(row["builder"] for row in mixed) == ["judged"] * 3 + ["meta_judged"] * 3


def test_killed_anywhere_it_resumes_to_the_same_files(tmp_path: Path):
    """Nine comparisons in two orders: 18 answers of the meta-judge, and the row that was in flight is asked again."""
    expected = run(tmp_path / "whole")
    files = {name: (tmp_path / "whole" / name).read_bytes() for name in FILES}
    for life in range(0, 18, 2):
        with pytest.raises(Killed):
            run(tmp_path / str(life), life)
        assert not (tmp_path / str(life) / "preferences.jsonl").exists()
        assert len(list(read_jsonl(tmp_path / str(life) / "meta_judgments.jsonl"))) == life // 2
        assert run(tmp_path / str(life)) == expected
        assert {name: (tmp_path / str(life) / name).read_bytes() for name in FILES} == files


def test_options_are_the_judgments_of_a_judge_that_writes_none(tmp_path: Path):
    """Of four questions about each pair (two principles, two orders) the least sure; the judge and the meta-judge are one.

    No option gives a reason, and standing first is weighed out: a tie, and no pair.
    """
    with pytest.raises(UserError, match="no preference to train on by `meta_judged`, out of 4 prompts; .* 'tie' .4 times"):
        run(tmp_path, judge_settings=JudgeSettings(model="policy"), builders={"judged": 1.0, "meta_judged": 1.0})
    assert len(list(read_jsonl(tmp_path / "meta_judgments.jsonl"))) == 4


def test_answers_of_an_anchor_are_judged_too(tmp_path: Path):
    """The anchor's one answer, numbered 5, gets a point in every review: what varies are the reviews of the policy's."""
    run(tmp_path, anchor=LimitedEngine(lambda request: "alike kind", name="first"))
    judged = {row["id"]: row for row in read_jsonl(tmp_path / "made.jsonl") if row["builder"] == "judged"}
    assert judged and all(id.endswith("-5") and row["anchor"] == "first" for id, row in judged.items())
    rows = meta_rows(tmp_path)
    assert [row["prompt_id"] for row in rows] == ["p0", "p1", "p3"]
    assert all("alike" not in row["prompt"][0]["content"] and row["judgments"] == 3 for row in rows)
