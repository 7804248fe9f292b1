from math import log

import pytest

from rlaif_dpo.engines.base import Completion, OptionRequest, OptionScores, Request, Sampling
from rlaif_dpo.engines.scripted import ScriptedEngine
from rlaif_dpo.messages import user


def request(id):
    return Request(id, (user("two words"),), Sampling(), 0)


def test_replies_errors_and_skip():
    engine = ScriptedEngine(reply=lambda r: ValueError("no") if r.id == "b" else f"reply to {r.id}")
    assert list(engine.generate([request("a"), request("b"), request("c")], skip={"c"})) == [
        Completion("a", "reply to a", 2, 3, "stop"),
        Completion("b", "", 2, 0, "error", "no"),
    ]
    assert engine.generated == ["a", "b"]


def test_options():
    engine = ScriptedEngine(choose=lambda r: (log(0.5), log(0.25)))
    (scores,) = engine.score_options([OptionRequest("a", (user("x"),), ("A", "B"))])
    assert scores == OptionScores("a", (log(0.5), log(0.25)), pytest.approx(0.75), 1)
    assert engine.scored == ["a"]


def test_what_is_not_scripted_is_an_error_of_the_test():
    with pytest.raises(AssertionError, match="no reply is scripted"):
        list(ScriptedEngine().generate([request("a")]))
