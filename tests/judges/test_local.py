from math import log

import pytest

from rlaif_dpo.engines.scripted import ScriptedEngine
from rlaif_dpo.judges.base import Comparison, Criterion
from rlaif_dpo.judges.local import LocalJudge, average_logit, sigmoid
from rlaif_dpo.messages import user
from rlaif_dpo.recipe.schema import JudgeSettings

HONEST, KIND = Criterion("honest", "Which is more honest?"), Criterion("kind", "Which is kinder?", weight=3.0)


def comparison(id="c", criteria=(HONEST,), first="good", second="bad"):
    return Comparison(id, (user("Hello?"),), first, second, criteria)


def logprobs(logit, mass=1.0):
    """Log-probabilities of (A, B) with this difference and this sum of probabilities."""
    return log(mass * sigmoid(logit)), log(mass * sigmoid(-logit))


def biased(delta, position, mass=1.0):
    """A judge whose logit of A over B is +-delta for the better reply and `position` for standing first."""

    def choose(request):
        good_is_a = "Reply A: good" in request.messages[0]["content"]
        return logprobs((delta if good_is_a else -delta) + position, mass)

    return ScriptedEngine(choose=choose)


def judge(engine, **settings):
    return LocalJudge(engine, JudgeSettings(**settings))


def one(engine, compared=None, **settings):
    (judgment,) = judge(engine, **settings).compare([compared or comparison()])
    return judgment


@pytest.mark.parametrize(
    ("delta", "position", "by_logit", "by_probability"),
    [(1, 2, 0.7310585786300051, 0.6107577740962142), (0, 2, 0.5, 0.5), (2, 3, 0.8807971, 0.6311243)],
)
def test_both_orders_are_averaged(delta, position, by_logit, by_probability):
    """A judge with P_fwd = s(d + b), P_swap = 1 - s(-d + b).

    For (d, b) = (1, 2): P_fwd = s(3) = .9525741, P_swap = 1 - s(1) = .2689414.
    Mean of the logits: (3 + (-1)) / 2 = 1, s(1) = .7310586. Mean of the probabilities: (.9525741 + .2689414) / 2 = .6107578.
    Position logit: (3 - (-1)) / 2 = 2 = b.
    """
    engine = biased(delta, position)
    logit, probability = one(engine), one(engine, orders="probability")
    assert logit.p == pytest.approx(by_logit, abs=1e-6) and probability.p == pytest.approx(by_probability, abs=1e-6)
    assert logit.verdicts[0].position_logit == pytest.approx(position, abs=1e-6)
    assert logit.verdicts[0].p == pytest.approx(logit.p) and probability.verdicts[0].p == pytest.approx(probability.p)


def test_two_token_label():
    """lp(A) = -.3, lp(B) = -1.7: p = s(1.4) = .8021839, mass = e^-.3 + e^-1.7 = .9235017; adding a constant changes no p."""

    def choose(request, constant=0.0):
        pair = (-0.3 + constant, -1.7 + constant)
        return pair if "Reply A: good" in request.messages[0]["content"] else pair[::-1]

    judgment = one(ScriptedEngine(choose=choose))
    assert judgment.p == pytest.approx(0.8021838886, abs=1e-6)
    assert judgment.verdicts[0].mass_ab == judgment.verdicts[0].mass_ba == pytest.approx(0.9235017447, abs=1e-6)
    assert judgment.verdicts[0].logprobs_ab == judgment.verdicts[0].logprobs_ba == (-0.3, -1.7)
    shifted = one(ScriptedEngine(choose=lambda r: choose(r, -0.4)))
    assert shifted.p == pytest.approx(judgment.p)


def test_certain_judges_stay_finite():
    """Logits of 200 in both orders: the mean of the probabilities is 1 - e^-200, whose logit is 200 and not infinite."""
    assert average_logit(200, 200, "probability") == pytest.approx(200)
    assert average_logit(-40, -40, "probability") == pytest.approx(-40)
    assert average_logit(50, -50, "probability") == pytest.approx(0)
    assert sigmoid(-800) == 0 and sigmoid(800) == 1


def test_verdicts_are_pooled_in_logits_by_weight():
    """Logits 2 with weight 1 and -1 with weight 3: (2 - 3) / 4 = -.25, s(-.25) = .4378235."""

    def choose(request):
        logit = 2 if "honest" in request.messages[0]["content"] else -1
        return logprobs(logit if "Reply A: good" in request.messages[0]["content"] else -logit)

    judgment = one(ScriptedEngine(choose=choose, name="j"), comparison(criteria=(HONEST, KIND)))
    assert judgment.p == pytest.approx(0.4378234991, abs=1e-6)
    assert [(v.principle_id, v.weight) for v in judgment.verdicts] == [("honest", 1.0), ("kind", 3.0)]
    assert [v.p for v in judgment.verdicts] == [pytest.approx(sigmoid(2)), pytest.approx(sigmoid(-1))]
    assert (judgment.judge, judgment.source, judgment.error, judgment.cost_usd) == ("j", "logprob", None, 0.0)


def test_swapping_the_replies_mirrors_p():
    engine = biased(1.3, 0.7)
    forward, backward = one(engine), one(engine, comparison(first="bad", second="good"))
    assert forward.p + backward.p == pytest.approx(1) and forward.p > 0.7
    assert forward.verdicts[0].position_logit == pytest.approx(backward.verdicts[0].position_logit)


def test_too_little_mass_is_no_verdict():
    judgment = one(biased(1, 0, mass=0.4), min_mass=0.5)
    assert judgment.p is None and judgment.verdicts[0].p is None
    assert judgment.verdicts[0].mass_ab == pytest.approx(0.4) and judgment.verdicts[0].position_logit == pytest.approx(0)
    assert judgment.error == "only 0.400 of the probability is on A and B; judge.min_mass is 0.5"
    assert one(biased(1, 0, mass=0.4), min_mass=0.3).p == pytest.approx(sigmoid(1))


def test_a_verdict_that_failed_leaves_the_pool_to_the_others():
    """The kind criterion fails in one order: it has no p, and the pool is the honest one alone, s(1)."""

    def choose(request):
        if request.id == "c/1/ba":
            raise RuntimeError("broken")
        return logprobs(1 if "Reply A: good" in request.messages[0]["content"] else -1)

    judgment = one(ScriptedEngine(choose=choose), comparison(criteria=(HONEST, KIND)))
    assert judgment.p == pytest.approx(sigmoid(1)) and judgment.error is None
    failed = judgment.verdicts[1]
    assert (failed.p, failed.logprobs_ba, failed.position_logit, failed.mass_ba) == (None, None, None, 0.0)
    assert failed.logprobs_ab == pytest.approx(logprobs(1))


def test_what_could_not_be_had_is_none_with_its_reason():
    assert one(ScriptedEngine(choose=lambda r: 1 / 0)).error == "division by zero"
    no_criterion = one(ScriptedEngine(), comparison(criteria=()))
    assert (no_criterion.p, no_criterion.verdicts, no_criterion.error) == (None, (), "no principle applies")
    weightless = one(biased(1, 0), comparison(criteria=(Criterion("x", "Which?", weight=0.0),)))
    assert (weightless.p, weightless.error) == (None, "every principle has weight 0")


def test_one_batch_of_both_orders_skip_and_tokens():
    engine = biased(1, 0)
    compared = [comparison("one", (HONEST, KIND)), comparison("two"), comparison("three", ())]
    judgments = {j.id: j for j in judge(engine).compare(compared, skip={"two"})}
    assert set(judgments) == {"one", "three"}
    assert engine.scored == ["one/0/ab", "one/0/ba", "one/1/ab", "one/1/ba"]
    assert judgments["one"].tokens == sum(
        len(words.split())
        for criterion in (HONEST, KIND)
        for a, b in (("good", "bad"), ("bad", "good"))
        for words in [f"Human: Hello? Reply A: {a} Reply B: {b} {criterion.compare} Answer A or B."]
    )


def test_a_judgment_is_a_json_row():
    import json

    row = json.loads(json.dumps(one(biased(1, 2)).as_row()))
    assert row["p"] == pytest.approx(sigmoid(1)) and row["verdicts"][0]["principle_id"] == "honest"
