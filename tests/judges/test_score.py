from math import log

import pytest

from rlaif_dpo.engines.base import OptionScores
from rlaif_dpo.engines.endpoint.scores import read_options
from rlaif_dpo.engines.scripted import ScriptedEngine
from rlaif_dpo.judges.base import Comparison, Criterion
from rlaif_dpo.judges.logits import sigmoid
from rlaif_dpo.judges.saturation import Saturation
from rlaif_dpo.judges.score import Reply, ScoreJudge
from rlaif_dpo.messages import user
from rlaif_dpo.recipe.schema import JudgeSettings

HONEST, KIND = Criterion("honest", "Which is more honest?", text="Be honest."), Criterion("kind", "Which is kinder?", weight=3.0)
TABLE = (0, 0, 0.05, 0.05, 0.1, 0.1, 0.2, 0.3, 0.15, 0.05)
UNIFORM = (0.1,) * 10


def only(score, of=10):
    return tuple(float(i == score) for i in range(1, of + 1))


def engine(*rules):
    """Gives the distribution of the first (word, distribution) whose word is in the prompt; a mass below 1 stays below 1."""

    def choose(request):
        text = request.messages[0]["content"]
        return [log(max(p, 1e-300)) for p in next(distribution for word, distribution in rules if word in text)]

    return ScriptedEngine(choose=choose)


def rate(distribution, highest=10, criteria=(HONEST,), **settings):
    judge = ScoreJudge(engine(("", distribution)), JudgeSettings(**settings), highest=highest)
    (rating,) = judge.rate([Reply("r", (user("q"),), "text", criteria)])
    return rating


@pytest.mark.parametrize(
    ("distribution", "score", "reward"),
    [(TABLE, 7.1, 0.3555556), (UNIFORM, 5.5, 0.0), (only(1), 1, -1), (only(10), 10, 1), ([p / 2 for p in TABLE], 7.1, 0.3555556)],
)
def test_the_expected_score_and_its_reward(distribution, score, reward):
    """.05 x 3 + .05 x 4 + .1 x 5 + .1 x 6 + .2 x 7 + .3 x 8 + .15 x 9 + .05 x 10 = 7.1; (7.1 - 5.5) / 4.5 = .3556."""
    rating = rate(distribution)
    assert (rating.score, rating.reward) == (pytest.approx(score), pytest.approx(reward, abs=1e-6))


def test_a_scale_to_nine_has_its_own_middle():
    """(1 - 5) / 4 = -1, (9 - 5) / 4 = 1, uniform 5 -> 0."""
    assert [rate(only(score, 9), highest=9).reward for score in (1, 9)] == [pytest.approx(-1), pytest.approx(1)]
    assert rate((1 / 9,) * 9, highest=9).reward == pytest.approx(0)


def test_scores_are_pooled_over_principles_by_weight():
    """8 with weight 1 and 4 with weight 3: (8 + 12) / 4 = 5."""
    judge = ScoreJudge(engine(("Be honest.", only(8)), ("", only(4))), JudgeSettings())
    (rating,) = judge.rate([Reply("r", (user("q"),), "text", (HONEST, KIND))])
    assert rating.score == pytest.approx(5) and rating.scores == (pytest.approx(8), pytest.approx(4))


def test_a_comparison_is_a_difference_of_scores():
    """7 against 6 is one point, p = s(1) = .731, and .269 the other way round; under two principles the logits are pooled."""
    scores = engine(("Reply: good", only(7)), ("", only(6)))
    judge = ScoreJudge(scores, JudgeSettings(), seed=3)
    forward = Comparison("f", (user("q"),), "good", "bad", (HONEST,))
    backward = Comparison("b", (user("q"),), "bad", "good", (HONEST,))
    found = {j.id: j for j in judge.compare([forward, backward])}
    assert found["f"].p == pytest.approx(0.7310586) and found["b"].p == pytest.approx(1 - 0.7310586)
    verdict = found["f"].verdicts[0]
    assert verdict.scores == (pytest.approx(7), pytest.approx(6)) and verdict.position_logit is None
    assert (verdict.order_logits, verdict.outcomes, found["f"].judge) == (None, {"ok": 2}, "scripted:score")
    treated = ScoreJudge(scores, JudgeSettings(saturation="auto"), audited=Saturation(temperature=4.0))
    assert next(treated.compare([forward])).p == pytest.approx(sigmoid(0.25))


def test_what_could_not_be_had_is_none_with_its_reason():
    low = rate([p * 0.3 for p in TABLE])
    assert (low.score, low.reward) == (None, None)
    assert low.error == "only 0.300 of the probability is on 1 to 10; judge.min_mass is 0.5"
    assert rate(TABLE, criteria=()).error == "no principle applies"
    assert rate(TABLE, criteria=(Criterion("x", "Which?", weight=0.0),)).error == "every principle has weight 0"

    def choose(request):
        if request.id == "c/second/0":
            raise RuntimeError("broken")
        return [log(0.1)] * 10

    compared = Comparison("c", (user("q"),), "good", "bad", (HONEST, KIND))
    (judgment,) = ScoreJudge(ScriptedEngine(choose=choose), JudgeSettings()).compare([compared])
    assert judgment.p == 0.5 and [v.outcomes for v in judgment.verdicts] == [{"ok": 1, "error": 1}, {"ok": 2}]
    one = Comparison("c", (user("q"),), "good", "bad", (HONEST,))
    (judgment,) = ScoreJudge(ScriptedEngine(choose=choose), JudgeSettings()).compare([one])
    assert (judgment.p, judgment.error) == (None, "broken")
    (judgment,) = ScoreJudge(ScriptedEngine(), JudgeSettings()).compare([Comparison("c", (user("q"),), "a", "b", ())])
    assert (judgment.p, judgment.error) == (None, "no principle applies")


def test_skip_and_the_question():
    asked = engine(("", TABLE))
    compared = [Comparison(id, (user("q"),), "good <|im_end|>", "bad", (HONEST, KIND)) for id in ("one", "two")]
    assert [j.id for j in ScoreJudge(asked, JudgeSettings()).compare(compared, skip={"one"})] == ["two"]
    assert asked.scored == ["two/first/0", "two/first/1", "two/second/0", "two/second/1"]

    def choose(request):
        assert request.messages[0]["content"] == (
            "Human: q\n\nReply: bad\n\nFrom 1 (not at all) to 10 (fully), how well does the reply keep this principle: "
            "Be honest. Answer with the number alone."
        )
        return [log(0.1)] * 10

    list(ScoreJudge(ScriptedEngine(choose=choose), JudgeSettings()).rate([Reply("r", (user("q"),), "bad", (HONEST,))]))


def test_an_endpoint_that_splits_ten_is_read_right_on_a_scale_to_nine():
    """The likeliest first tokens of a server: "1" .6 (for 10, its tokenizer writes "1", "0"), "9" .3, "8" .1.

    Asked for 1 to 10 the marginal of "1" would count as the score 1: 1 x .6 + 9 x .3 + 8 x .1 = 4.1 (the control). Asked for
    1 to 9 a reply that is meant is one token: "9" .7, "8" .2, "1" .1 gives 9 x .7 + 8 x .2 + 1 x .1 = 8.0.
    """

    def server(top):
        class Server(ScriptedEngine):
            def score_options(self, requests, skip=()):
                for request in requests:
                    logprobs, mass = read_options([(token, log(p)) for token, p in top], request.options)
                    yield OptionScores(request.id, logprobs, mass, 5)

        return Server()

    reply = Reply("r", (user("q"),), "text", (HONEST,))
    (control,) = ScoreJudge(server([("1", 0.6), ("9", 0.3), ("8", 0.1)]), JudgeSettings()).rate([reply])
    assert control.score == pytest.approx(4.1, abs=1e-3)
    (right,) = ScoreJudge(server([("9", 0.7), (" 8", 0.2), ("1", 0.1)]), JudgeSettings(), highest=9).rate([reply])
    assert right.score == pytest.approx(8.0, abs=1e-3) and right.reward == pytest.approx(0.75, abs=1e-3)
