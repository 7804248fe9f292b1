from dataclasses import dataclass, field, replace

import pytest

from rlaif_dpo.engines.scripted import ScriptedEngine
from rlaif_dpo.judges.base import Comparison, Criterion, Judgment
from rlaif_dpo.judges.committee import Committee
from rlaif_dpo.judges.logits import log_sigmoid, logit, sigmoid
from rlaif_dpo.judges.pairwise import PairwiseJudge
from rlaif_dpo.messages import user
from rlaif_dpo.recipe.schema import JudgeSettings

HONEST, KIND = Criterion("honest", "Which is more honest?"), Criterion("kind", "Which is kinder?", weight=3.0)


def comparison(id="c", criteria=(HONEST,)):
    return Comparison(id, (user("q"),), "good", "bad", criteria)


def member(name, delta, position=0.0, kind=None):
    """A judge whose logit for the good reply is `delta` (under `kind`, if given, its own), with a pull of the position."""

    def choose(request):
        text = request.messages[0]["content"]
        x = kind if kind is not None and "kinder" in text else delta
        x = (x if "Reply A: good" in text else -x) + position
        return log_sigmoid(x), log_sigmoid(-x)

    return PairwiseJudge(ScriptedEngine(choose=choose, name=name), JudgeSettings())


@dataclass
class Whole:
    """Judges the pair as a whole, as people do."""

    p: float | None
    name: str = "person"
    asked: list = field(default_factory=list)

    def compare(self, comparisons, skip=()):
        for c in comparisons:
            if c.id not in skip:
                self.asked.append(c.id)
                error = None if self.p is not None else "nobody has labelled this pair"
                yield Judgment(c.id, self.p, (), self.name, "human", 0, error=error)


def one(members, compared=None):
    (judgment,) = Committee(members).compare([compared or comparison()])
    return judgment


def test_the_mean_of_the_logits_by_weight():
    """Logits 2 and -1 with weights 1 and 3: (2 - 3) / 4 = -.25, s(-.25) = .4378; p .881 and .269 are .612 apart."""
    judgment = one([(member("x", 2), 1.0), (member("y", -1), 3.0)])
    assert judgment.p == pytest.approx(0.4378234991)
    assert judgment.judge == "committee(x, y)" and [m.judge for m in judgment.members] == ["x", "y"]
    assert judgment.spread == pytest.approx(sigmoid(2) - sigmoid(-1))
    assert judgment.verdicts[0].outcomes == {"ok": 4} and judgment.verdicts[0].abstained == ()
    assert judgment.tokens == sum(m.tokens for m in judgment.members) > 0


def test_a_member_whose_orders_disagree_abstains():
    """y reads .5 with a pull of 2: its orders are 2.5 and -1.5. Only x votes, s(2). With a pull of .4 it votes."""
    judgment = one([(member("x", 2), 1.0), (member("y", 0.5, position=2), 3.0)])
    assert judgment.p == pytest.approx(sigmoid(2)) and judgment.verdicts[0].abstained == ("y",)
    assert judgment.members[1].p == pytest.approx(sigmoid(0.5))  # what it said is kept
    assert judgment.verdicts[0].position_logit == pytest.approx(1.5)  # (0 + 3 x 2) / 4
    assert one([(member("x", 2), 1.0), (member("y", 0.5, position=0.4), 3.0)]).p == pytest.approx(sigmoid((2 + 3 * 0.5) / 4))


def test_none_only_when_nobody_is_left():
    biased = [(member("x", 0.5, position=2), 1.0), (member("y", -0.1, position=1), 1.0)]
    judgment = one(biased)
    assert (judgment.p, judgment.error) == (None, "every member abstained: their two orders disagree")
    assert one([*biased, (Whole(0.9), 1.0)]).p == pytest.approx(0.9)
    assert one([(Whole(None), 1.0)]).error == "nobody has labelled this pair"


def test_abstention_is_per_principle():
    """x: honest 2, kind 0 with a pull of 3 in both, so honest (5, -1) and kind (3, -3) are both made by order; y: 1 and -2."""
    judgment = one(
        [(member("x", 2, position=1, kind=0.5), 1.0), (member("y", 1, kind=-2), 1.0)], comparison(criteria=(HONEST, KIND))
    )
    honest, kind = judgment.verdicts
    assert honest.p == pytest.approx(sigmoid(1.5)) and (kind.p, kind.abstained) == (pytest.approx(sigmoid(-2)), ("x",))
    assert judgment.p == pytest.approx(sigmoid((1 * 1.5 + 3 * -2) / 4))


def test_a_member_that_judges_the_whole_votes_under_every_principle():
    """Person .8 (logit 1.386) and x (2, -1): honest (1.386 + 2) / 2, kind (1.386 - 1) / 2, pooled 1 : 3."""
    person = (Whole(0.8), 1.0)
    judgment = one([person, (member("x", 2, kind=-1), 1.0)], comparison(criteria=(HONEST, KIND)))
    honest, kind = (logit(0.8) + 2) / 2, (logit(0.8) - 1) / 2
    assert judgment.p == pytest.approx(sigmoid((honest + 3 * kind) / 4))
    assert one([person, (Whole(0.5), 3.0)], comparison(criteria=())).p == pytest.approx(sigmoid(logit(0.8) / 4))
    assert one([(Whole(1.0), 1.0), (Whole(0.0), 1.0)]).p == pytest.approx(0.5)


def test_the_weakest_source_and_an_unknown_price_show():
    class Voting(Whole):
        def compare(self, comparisons, skip=()):
            yield from (replace(j, source="vote", cost_usd=None) for j in super().compare(comparisons, skip))

    judgment = one([(Whole(0.8), 1.0), (Voting(0.6), 1.0), (member("x", 1), 1.0)])
    assert (judgment.source, judgment.cost_usd) == ("vote", None)
    assert one([(Whole(0.8), 1.0), (member("x", 1), 1.0)]).source == "logprob"


def test_judgments_come_as_soon_as_all_members_have_them():
    """The first of three is out when the members have been asked about one or two pairs, not all; `skip` goes through."""
    slow = Whole(0.7)
    stream = Committee([(Whole(0.8), 1.0), (slow, 1.0)]).compare([comparison(str(n)) for n in range(3)], skip={"1"})
    assert next(stream).id == "0" and slow.asked == ["0"]
    assert [j.id for j in stream] == ["2"]
