"""What the meta-judge compares: the questions behind a judgment, how much the answers to each vary, and who stands first."""

from math import log
from typing import Any

import pytest

from rlaif_dpo.constitution.schema import derive
from rlaif_dpo.engines.base import OptionRequest, Request
from rlaif_dpo.engines.scripted import ScriptedEngine
from rlaif_dpo.judges.additive import AdditiveJudge, additive_messages
from rlaif_dpo.judges.base import Comparison, Criterion
from rlaif_dpo.judges.logits import sigmoid
from rlaif_dpo.judges.meta import META, Game, Judged, first_wins, game_of, judged_of, longest_question, most_judgments
from rlaif_dpo.judges.pairwise import PairwiseJudge
from rlaif_dpo.judges.templates import PRINCIPLE
from rlaif_dpo.messages import user
from rlaif_dpo.recipe.schema import JudgeSettings

CRITERIA = tuple(Criterion(id, derive(text)["compare"], text=text) for id, text in (("kind", "Be kind."), ("short", "Be short.")))
PAIR = Comparison("p/1-2", (user("I have a headache."),), "good", "bad", CRITERIA)
THREE = JudgeSettings(kind="additive", rationales=3)


def reviewed(*good: str) -> list[Judged]:
    """The questions of an additive judge whose reviews of "good" are these, and of "bad" always the same."""
    engine = ScriptedEngine(lambda r: good[int(r.id[-1])] if "Reply: good" in r.messages[0]["content"] else "Score: 2")
    (found,) = AdditiveJudge(engine, THREE).compare([PAIR])
    return list(judged_of(PAIR, found.as_row(), THREE))


def test_reviews_of_a_reply_answer_one_question_and_vary_by_their_scores():
    """Scores 5, 4 and 3: mean 4, variance (1 + 0 + 1) / 3. The reviews of the other reply are the same text: one judgment."""
    good, bad = reviewed("Fine. Score: 5", "Well. Score: 4", "Hm. Score: 3")
    assert good.messages == additive_messages(PAIR, "good") and bad.messages == additive_messages(PAIR, "bad")
    assert good.judgments == ("Fine. Score: 5", "Well. Score: 4", "Hm. Score: 3") and good.variance == pytest.approx(2 / 3)
    assert bad.judgments == ("Score: 2",) and bad.variance == 0 and good.id != bad.id


def test_a_review_without_a_score_is_no_judgment():
    """Of 5 and 3 the variance is 1; two of three are enough for the judge."""
    good, _ = reviewed("Score: 5", "I cannot say.", "Score: 3")
    assert good.judgments == ("Score: 5", "Score: 3") and good.variance == 1


def test_what_has_no_judgment_asks_nothing():
    assert reviewed("none", "none", "none") == []


def pairwise(settings: JudgeSettings) -> list[Judged]:
    """A judge that gives "good" .8 under "Be kind.", .6 under the other, in either order; its rationales name the order."""

    def reply(request: Request) -> str:
        return "first is good" if "Reply A: good" in request.messages[0]["content"] else f"second is good {request.id[-1]}"

    def choose(request: OptionRequest) -> tuple[float, float]:
        p, asked = 0.8 if "Be kind." in request.messages[0]["content"] else 0.6, request.messages[0]["content"]
        return (log(p), log(1 - p)) if "Reply A: good" in asked else (log(1 - p), log(p))

    (found,) = PairwiseJudge(ScriptedEngine(reply, choose), settings).compare([PAIR])
    return list(judged_of(PAIR, found.as_row(), settings))


def test_each_order_under_each_principle_is_a_question_of_a_pairwise_judge():
    """p = .8 varies by .8 * .2 = .16, and .6 by .24. Without rationales the judgments are the two options."""
    found = pairwise(JudgeSettings())
    assert [judged.variance for judged in found] == pytest.approx([0.16, 0.16, 0.24, 0.24])
    assert {judged.judgments for judged in found} == {("A", "B")} and len({judged.id for judged in found}) == 4
    assert found[0].messages == PRINCIPLE.ask(PAIR, CRITERIA[0], swapped=False)
    assert found[3].messages == PRINCIPLE.ask(PAIR, CRITERIA[1], swapped=True)


def test_with_rationales_these_are_the_judgments():
    found = pairwise(JudgeSettings(reasoning="cot", rationales=3))
    assert [judged.judgments for judged in found[:2]] == [
        ("first is good",), ("second is good 0", "second is good 1", "second is good 2"),
    ]  # fmt: skip
    assert found[1].messages == PRINCIPLE.ask_why(PAIR, CRITERIA[0], swapped=True)


@pytest.mark.parametrize(
    ("settings", "most", "replies", "judgment"),
    [
        ({}, 2, 200, 1),
        ({"reasoning": "cot", "rationales": 4, "rationale_tokens": 50}, 4, 200, 50),
        ({"kind": "additive", "rationales": 5, "rationale_tokens": 60}, 5, 100, 60),
    ],
)
def test_what_a_plan_needs_to_know(settings: dict[str, Any], most: int, replies: int, judgment: int):
    judge = JudgeSettings(**settings)
    found = longest_question(PAIR, judge, 100)
    assert most_judgments(judge) == most and found is not None
    assert (found.replies, found.judgment) == (replies, judgment)
    bare = longest_question(Comparison("", PAIR.messages, "", "", ()), judge, 100)
    assert (bare is None) == (judge.kind == "pairwise")  # reviews need no principle


def meta_row(first: float, second: float, mass: float = 1.0) -> dict[str, Any]:
    """A meta-judgment whose logits of "the first judgment is better" are these, with it shown first and second."""

    def choose(request: OptionRequest) -> tuple[float, float]:
        shown_first = "Reply A: one" in request.messages[0]["content"]
        p = sigmoid(first if shown_first else -second)
        return log(mass * p), log(mass * (1 - p))

    judge = PairwiseJudge(ScriptedEngine(choose=choose), JudgeSettings())
    (found,) = judge.compare([Comparison("m", (user("Give points."),), "one", "two", (META,))])
    return found.as_row()


def test_a_game_has_both_orders():
    game = game_of(meta_row(2.0, -1.0), 3, 5)
    assert game is not None and (game.first, game.second) == (3, 5)
    assert (game.p_first, game.p_second) == pytest.approx((sigmoid(2), sigmoid(-1)))
    assert game_of(meta_row(2.0, -1.0, mass=0.1), 3, 5) is None


def test_the_place_that_wins():
    """Shown first, judgments win .9, and 1 - .3 = .7 of the other order; then .5 and .5: in all 2.6 of 4."""
    assert first_wins([Game(0, 1, 0.9, 0.3), Game(0, 1, 0.5, 0.5)]) == pytest.approx(0.65)
    assert first_wins([Game(0, 1, 0.8, 0.8)]) == pytest.approx(0.5)  # the better judgment, wherever it stands
    assert first_wins([]) is None
