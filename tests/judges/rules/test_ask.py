"""P(yes) of propositions."""

from math import log

import pytest

from rlaif_dpo.engines.base import OptionScores, Spent, Usage
from rlaif_dpo.engines.scripted import ScriptedEngine
from rlaif_dpo.judges.rules.ask import Item, ask_propositions, proposition_messages
from rlaif_dpo.judges.rules.schema import Proposition
from rlaif_dpo.messages import assistant, user
from rlaif_dpo.prompts.rows import PromptRow

PROMPT = PromptRow("p", (user("Hello?"),))
THANKS = Proposition(id="thanks", question="Does the reply say thanks?")
SHORT = Proposition(id="short", question="Is the reply short?")
ITEMS = [Item(PROMPT, "Thank you."), Item(PROMPT, "Go away.")]


def ask(engine, items=ITEMS, propositions=(THANKS,), **settings):
    return {(item.text, id): found for item, id, found in ask_propositions(engine, items, propositions, **settings)}


def test_p_is_the_softmax_of_the_two_options():
    """lp(yes) = -.3, lp(no) = -1.7: p = e^-.3 / (e^-.3 + e^-1.7) = s(1.4) = .8021839, mass = .9235017."""
    found = ask(ScriptedEngine(choose=lambda request: (-0.3, -1.7)))[("Thank you.", "thanks")]
    assert found.p == pytest.approx(0.8021838886) and found.mass == pytest.approx(0.9235017447)
    assert (found.source, found.error) == ("logprob", None)


def test_too_little_mass_is_none_never_a_default():
    """P(yes) = .3 and P(no) = .1: mass .4. With min_mass .5 there is no p; with .4 it is .75."""
    engine = ScriptedEngine(choose=lambda request: (log(0.3), log(0.1)))
    found = ask(engine)[("Thank you.", "thanks")]
    assert found.p is None and found.mass == pytest.approx(0.4)
    assert found.error == "only 0.400 of the probability is on yes and no; judge.min_mass is 0.5"
    assert ask(engine, min_mass=0.39)[("Thank you.", "thanks")].p == pytest.approx(0.75)


def test_each_item_is_asked_each_question_and_a_failure_stays_its_own():
    def choose(request):
        if "Go away" in request.messages[0]["content"] and "short" in request.messages[0]["content"]:
            raise RuntimeError("broken")
        return (log(0.9), log(0.1)) if "Thank you" in request.messages[0]["content"] else (log(0.2), log(0.8))

    found = ask(ScriptedEngine(choose=choose), propositions=(THANKS, SHORT))
    assert {key: what.p for key, what in found.items()} == {
        ("Thank you.", "thanks"): pytest.approx(0.9),
        ("Thank you.", "short"): pytest.approx(0.9),
        ("Go away.", "thanks"): pytest.approx(0.2),
        ("Go away.", "short"): None,
    }
    assert found[("Go away.", "short")].error == "broken"


def test_the_reply_stands_first_and_the_question_last():
    """All prompts of an item share all but their last sentence; the options are those of the rulebook."""
    conversation = PromptRow("c", (user("Hi"), assistant("Hello"), user("Help me")))
    (message,) = proposition_messages(Item(conversation, "Of course."), "Is it kind?", ("true", "false"))
    assert (
        message["content"]
        == "Human: Hi\n\nAssistant: Hello\n\nHuman: Help me\n\nReply: Of course.\n\nIs it kind? Answer true or false."
    )
    (about_prompt,) = proposition_messages(Item(conversation), "Is it safe?", ("yes", "no"))
    assert about_prompt["content"] == "Human: Hi\n\nAssistant: Hello\n\nHuman: Help me\n\nIs it safe? Answer yes or no."


def test_the_options_of_the_rulebook_are_scored():
    seen = []
    ask(ScriptedEngine(choose=lambda request: seen.append(request.options) or (0.0, -50.0)), options=("true", "false"))
    assert seen == [("true", "false")] * 2


def test_what_is_had_is_not_asked():
    engine = ScriptedEngine(choose=lambda request: (log(0.5), log(0.5)))
    assert set(ask(engine, skip={ITEMS[0].id})) == {("Go away.", "thanks")}
    assert engine.scored == [f"{ITEMS[1].id}/thanks"]


def test_votes_and_cost_pass_through():
    """A server without log-probabilities votes: 7 yes, 1 no of 8 as (k + .5) / (n + 1) = .8333, .1667, p = .8333."""

    class Voting(ScriptedEngine):
        def score_options(self, requests, skip=()):
            for request in requests:
                spent = Spent(Usage(10, 8), None, 0.1, 8)
                yield OptionScores(request.id, (log(7.5 / 9), log(1.5 / 9)), 1.0, 10, source="vote", spent=spent)

    found = ask(Voting())[("Thank you.", "thanks")]
    assert found.p == pytest.approx(7.5 / 9) and (found.source, found.tokens, found.cost_usd) == ("vote", 10, None)


def test_an_item_is_its_conversation_and_answer():
    other = PromptRow("another id", (user("Hello?"),), tags=("x",))
    assert Item(PROMPT, "a").id == Item(other, "a").id
    assert len({Item(PROMPT, "a").id, Item(PROMPT, "b").id, Item(PROMPT).id, Item(PROMPT, "").id}) == 4
