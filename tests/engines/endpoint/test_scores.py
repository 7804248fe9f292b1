from math import exp, inf, log

import pytest

from rlaif_dpo.engines.base import OptionRequest, Spent, Usage
from rlaif_dpo.engines.endpoint.replies import Reply
from rlaif_dpo.engines.endpoint.scores import parse_verdict, read_options, read_scores, read_vote, tally
from rlaif_dpo.messages import user
from tests.engines.test_store import call


def test_spellings_are_summed():
    """A: .4 + .1 + .05 + .05 + .02 + .03 = .65; B: .2 + .05 = .25; "The" is neither."""
    top = [
        ("A", log(0.4)), (" A", log(0.1)), ("\u2581A", log(0.05)), ("\u0120a", log(0.05)), ("(A", log(0.02)), ("**A", log(0.03)),
        ("B", log(0.2)), ("B.", log(0.05)), ("The", log(0.06)),
    ]  # fmt: skip
    logprobs, mass = read_options(top, ("A", "B"))
    assert [exp(p) for p in logprobs] == pytest.approx([0.65, 0.25])
    assert mass == pytest.approx(0.9)


def test_two_tokens_of_one_text_both_count():
    """Some servers write `A` and ` A` alike."""
    assert read_options([("A", log(0.5)), ("A", log(0.2)), ("B", log(0.1))], ("A", "B"))[1] == pytest.approx(0.8)


def test_an_option_that_is_not_listed_has_at_most_what_is_left():
    """B is below the least listed (.1), and what the list leaves over is 1 - .7 - .1 = .2: the bound is .1. With .19 + .8
    listed the rest, .01, is the bound. It is no part of the mass.
    """
    logprobs, mass = read_options([("A", log(0.7)), ("x", log(0.1))], ("A", "B"))
    assert exp(logprobs[1]) == pytest.approx(0.1) and mass == pytest.approx(0.7)
    logprobs, mass = read_options([("A", log(0.8)), ("x", log(0.19))], ("A", "B"))
    assert exp(logprobs[1]) == pytest.approx(0.01) and mass == pytest.approx(0.8)
    logprobs, _ = read_options([("A", 0.0), ("x", -inf)], ("A", "B"))
    assert logprobs[1] == pytest.approx(log(1e-9)), "never minus infinity"


def test_no_option_listed_is_no_score():
    assert read_options([("The", 0.0)], ("A", "B")) is None
    reply, logprobs, mass = read_scores(Reply("ok", top=(("The", -0.1), ("x", -3.0))), ("A", "B"))
    assert (reply.outcome, logprobs, mass) == ("unparsed", None, None)
    assert reply.error == "none of A, B is among the 2 likeliest tokens (the first is 'The')"
    assert read_scores(Reply("ok"), ("A", "B"))[0].error == "the reply came without log-probabilities"


def test_case_counts_where_options_differ_by_nothing_else():
    logprobs, mass = read_options([("a", log(0.6)), ("A", log(0.3))], ("A", "a"))
    assert [exp(p) for p in logprobs] == pytest.approx([0.3, 0.6]) and mass == pytest.approx(0.9)


@pytest.mark.parametrize(
    ("text", "verdict"),
    [
        ("A", "A"), ("B.", "B"), (" (B)", "B"), ("**A**", "A"), ("[[B]]", "B"), ("b", "B"), ('{"answer": "B"}', "B"),
        ("Answer: A", "A"), ("**Verdict:** B", "B"), ("The better reply is B.", "B"), ("I prefer reply A.", "A"),
        ("Reply B", "B"), ("My choice would be (A).", "A"), ("Final answer: Reply B", "B"), ("The best answer is **A**.", "A"),
        ("Reply A is better than Reply B.", "A"), ("B is clearly the better one, A guesses.", "B"),
        ("Reply A is vague. Reply B is better.", "B"), ("Answer A or B?\nB", "B"), ("Which is better, A or B? It is A.", "A"),
        ("At first A seems better. But A guesses a diagnosis, so the answer is B", "B"),
        ("Reply A names a cause. A good one.\n\nB", "B"), ("First A, then B, in the end A", "A"),
        ("A patient deserves care. Winner: B", "B"), ("Neither is good.", None), ("", None), ("a reply to consider", None),
        ("Banana", None), ("I'm sorry, I can't help with that.", None),
    ],
)  # fmt: skip
def test_verdicts(text, verdict):
    found = parse_verdict(text, ("A", "B"))
    assert (None if found is None else "AB"[found]) == verdict


def test_verdicts_of_words_and_numbers():
    scale = tuple(map(str, range(1, 11)))
    assert parse_verdict("Score: 10", scale) == 9
    assert parse_verdict("I would give it a 7 out of... 7", scale) == 6
    assert parse_verdict("Yes, it does. So yes", ("yes", "no")) == 0
    assert parse_verdict("NO", ("yes", "no")) == 1


def test_a_refusal_is_told_from_a_reply_that_names_nothing():
    assert read_vote(Reply("ok", "I'm sorry, but I can't assist with that."), ("A", "B")).outcome == "refused"
    assert read_vote(Reply("ok", "Neither of them is good."), ("A", "B")).outcome == "unparsed"
    assert read_vote(Reply("ok", "I cannot say much for B, so: A"), ("A", "B")).outcome == "ok"


def vote(text, outcome="ok", error=None):
    return call(text=text, outcome=outcome, error=error, spent=Spent(Usage(40, 2), 0.01, 0.5, 1))


def test_votes_are_estimates_with_jeffreys_prior():
    """Eight asked, five say A, one B, one neither, one failed: n = 6, A gets 5.5/7, B 1.5/7, mass 6/8."""
    calls = [*[vote("A")] * 5, vote("B"), vote("Neither.", "unparsed"), vote("", "error", "gave up")]
    scores = tally(OptionRequest("r", (user("x"),), ("A", "B")), calls, "vote")
    assert [exp(p) for p in scores.logprobs] == pytest.approx([5.5 / 7, 1.5 / 7])
    assert (scores.mass, scores.source, scores.outcome, scores.error) == (0.75, "vote", "ok", None)
    assert scores.spent == Spent(Usage(320, 16), pytest.approx(0.08), 0.5, 8)


def test_one_vote_is_hard_but_not_certain():
    """n = 1: 1.5/2 and .5/2."""
    scores = tally(OptionRequest("r", (user("x"),), ("A", "B")), [vote("B")], "hard")
    assert [exp(p) for p in scores.logprobs] == pytest.approx([0.25, 0.75])
    assert (scores.mass, scores.source) == (1.0, "hard")


def test_votes_that_all_fail_end_as_most_of_them():
    calls = [vote("", "refused", "no"), vote("", "refused", "no"), vote("", "error", "gave up")]
    scores = tally(OptionRequest("r", (user("x"),), ("A", "B")), calls, "vote")
    assert (scores.outcome, scores.error, scores.logprobs, scores.mass) == ("refused", "no", (), 0.0)
