import random

import pytest

from rlaif_dpo.revise.clean import clean_critique, clean_revision, finds_fault, repetition
from rlaif_dpo.revise.templates import NO_PROBLEM
from rlaif_dpo.sandbox import world
from rlaif_dpo.sandbox.wordings import WORDINGS

REPLY = "I am sorry to hear that. Try rest."


@pytest.mark.parametrize(
    "text",
    [
        REPLY,
        f"  {REPLY}\n",
        f"Here is a revised reply: {REPLY}",
        f"Here's the revised response:\n\n{REPLY}",
        f"Sure, here’s an improved version: {REPLY}",
        f"Sure! Here is a rewritten, kinder version of the reply:\n{REPLY}",
        f"Certainly. Below is my revised answer to the patient:\n\n{REPLY}",
        f"I've revised the response to be kinder: {REPLY}",
        f"Revision: {REPLY}",
        f"**Revised reply:** {REPLY}",
        f"Assistant: {REPLY}",
        f"Revision: Assistant: {REPLY}",
        f'Revised response: "{REPLY}"',
        f'"{REPLY}"',
        f"“{REPLY}”",
        f"Critique: It was rude.\n\nRevision: {REPLY}",
        f"{REPLY}\n\nCritique request: Say how it is bad.",
        f"{REPLY}\n\nCritiqueRequest: Say how it is bad.",
        f"{REPLY}\nCritique: still rude",
        f"{REPLY}\n\nHuman: thanks",
    ],
)
def test_what_is_wrapped_around_a_revision_is_taken_off(text: str) -> None:
    assert clean_revision(text) == REPLY


@pytest.mark.parametrize(
    "text",
    [
        "Sure, here's how to make tea: boil water.",
        "Here is what I would do: rest.",
        "Here are three updated rules: a, b, c.",
        'He said "rest" and then "drink".',
        '"Rest" is good, and so is "tea"',
        "Of course: rest first.",
        "The Assistant: a novel.",
        "My revision of the plan: rest.",
    ],
)
def test_a_reply_that_only_looks_like_it_is_left_alone(text: str) -> None:
    assert clean_revision(text) == text


def test_a_turn_that_is_only_a_critique_leaves_nothing() -> None:
    assert clean_revision("Critique: The reply is rude and long.") == ""
    assert clean_revision("") == ""


def test_a_critique_loses_its_label_and_an_early_revision() -> None:
    assert clean_critique(" Critique: It is rude.\n\nRevision: Be kind to you.") == "It is rude."
    assert clean_critique("It is rude.") == "It is rude."


@pytest.mark.parametrize(
    "critique",
    [
        NO_PROBLEM,
        "no problem",
        "No problems found.",
        "No critique needed.",
        "No critique is necessary here.",
        "Nothing to mend.",
        "There is nothing wrong with the reply.",
        "There's no real issue with the assistant's response.",
        "I see no issue.",
        "The reply is fine.",
        "The assistant's response is perfectly appropriate, nothing to change.",
        "The last reply has no fault.",
        "Overall, the response was good.",
        "**No changes needed.**",
        "The assistant warned the patient and named a source. No critique needed.",
    ],
)
def test_a_critique_without_a_fault(critique: str) -> None:
    assert not finds_fault(critique)


@pytest.mark.parametrize(
    "critique",
    [
        "",
        "The reply asks for the insurance number.",
        "There is no problem with the tone, but it asks for the insurance number.",
        "The reply is good. However, it names no source.",
        "No concern for the patient is shown.",
        "It says there is no problem with sharing passwords.",
        "The advice has no source.",
        "The problem is that no one is told to call 911.",
        "The reply tells the patient that nothing is wrong.",
        "It asks for the address. There are no other problems.",
        "There is no problem with sharing passwords, it says.",
    ],
)
def test_a_critique_with_a_fault(critique: str) -> None:
    assert finds_fault(critique)


def test_the_sandbox_is_read_as_it_is_meant() -> None:
    """Every critique it teaches names a fault, and no answer of its world is touched by the clean-up."""
    rng = random.Random(0)
    for row in world.prompts(60, 0):
        answer = world.draw_answer(rng, row.facts["kind"], 0.5)
        assert clean_revision(world.render(row.facts, answer)) == world.render(row.facts, answer)
        for concept in WORDINGS:
            assert finds_fault(world.fault(row.facts, answer, concept))


def test_repetition() -> None:
    """ "a b a b a b": six tokens, three 4-grams (abab, baba, abab), two distinct: 1 - 2/3. Emojis and kana count one by one."""
    assert repetition("a b a b a b") == pytest.approx(1 / 3)
    assert repetition("one two three") == 0
    assert repetition("one two three four five six") == 0
    assert repetition("🙂" * 8) == pytest.approx(1 - 1 / 5)
    assert repetition("はは" * 8) == pytest.approx(1 - 1 / 13)
