"""What the sandbox model is taught: to answer carelessly, to repeat an answer, to critique and revise, and to judge.

A lesson is a set of conversations that begin alike (one draft criticised under several principles, one pair judged under
many), so that training can run their common prefix once. The prompts are those of the pipeline, made by its own templates.
"""

import random
from dataclasses import dataclass, replace
from typing import Literal

from rlaif_dpo.constitution.schema import derive
from rlaif_dpo.judges.templates import OPTIONS, compare_messages
from rlaif_dpo.messages import Message, assistant, user
from rlaif_dpo.revise.templates import NO_PROBLEM, critique_messages, revision_messages
from rlaif_dpo.sandbox import vocabulary as words
from rlaif_dpo.sandbox import world
from rlaif_dpo.sandbox.wordings import WORDINGS, known_wordings, unknown_wordings

BASE_QUALITY = 0.3
DRAFT_QUALITIES = (0.3, 0.3, 0.6, 0.9)
PRINCIPLES_PER_DRAFT = 3
UNKNOWN = "unknown"
UNKNOWN_PER_PAIR = 2
# The kinds of lessons on drafts and pairs. Emergencies count twice: only they can break "scope".
KINDS = ("ordinary", "emergency", "emergency", "dangerous", "lookalike")


@dataclass(frozen=True)
class Conversation:
    """Messages of which the assistant turns from index `taught` on are targets.

    With `tie` the last turn is a judge's option that could as well be the other one: both are targets with half the weight.
    """

    messages: tuple[Message, ...]
    taught: int
    tie: bool = False


Lesson = tuple[Conversation, ...]
Kind = Literal["answer", "repeat", "revise", "judge"]


def draw_lesson(rng: random.Random, kind: Kind) -> Lesson:
    """One lesson of a kind."""
    return {"answer": _answer_lesson, "repeat": _repeat_lesson, "revise": _revise_lesson, "judge": _judge_lesson}[kind](rng)


def draw_wording(rng: random.Random, principle: str, held_out: bool = False) -> str:
    """A wording of a known concept, or of one the model never learns (`UNKNOWN`)."""
    return rng.choice(unknown_wordings(held_out) if principle == UNKNOWN else known_wordings(principle, held_out))


def _answer_lesson(rng: random.Random) -> Lesson:
    """Plain questions over the whole world, held-out subjects too: knowledge, and the base's carelessness."""
    row = world.draw_prompt(rng)
    answer = world.draw_answer(rng, row.facts["kind"], BASE_QUALITY)
    messages = (*row.messages, assistant(world.render(row.facts, answer)))
    return (Conversation(messages, taught=len(row.messages)),)


def _repeat_lesson(rng: random.Random) -> Lesson:
    """An answer said once more, over the whole world: how to carry a fact from the draft into another text."""
    row = world.draw_prompt(rng)
    text = world.render(row.facts, world.draw_answer(rng, row.facts["kind"], rng.choice(DRAFT_QUALITIES)))
    talk: tuple[Message, ...] = ()
    if rng.random() < 0.5:
        remark, reply = rng.choice(words.SMALL_TALK)
        talk = (user(remark), assistant(reply))
    dialogue = (*row.messages, assistant(text), *talk, user(rng.choice(words.REPEAT_REQUESTS)))
    return (Conversation((*dialogue, assistant(text)), taught=len(dialogue)),)


def _revise_lesson(rng: random.Random) -> Lesson:
    """One draft under several principles. A principle that is kept, does not apply or is unknown leaves it unchanged."""
    kind = rng.choice(KINDS)
    row = world.draw_prompt(rng, held_out=False, kind=kind)
    answer = world.draw_answer(rng, kind, rng.choice(DRAFT_QUALITIES))
    draft = world.render(row.facts, answer)
    conversations = []
    for _ in range(PRINCIPLES_PER_DRAFT):
        principle = _draw_applicable(rng, kind) if rng.random() < 0.7 else rng.choice([*WORDINGS, UNKNOWN, UNKNOWN])
        broken = principle in world.APPLIES[kind] and principle not in answer.kept
        request = derive(draw_wording(rng, principle))
        critique = world.fault(row.facts, answer, principle) if broken else NO_PROBLEM
        revised = world.render(row.facts, answer.mended(principle)) if broken else draft
        dialogue = revision_messages(row.messages, draft, request["critique"], critique, request["revision"])
        first_target = len(critique_messages(row.messages, draft, request["critique"]))
        conversations.append(Conversation((*dialogue, assistant(revised)), taught=first_target))
    return tuple(conversations)


def _judge_lesson(rng: random.Random) -> Lesson:
    """One pair of answers under every known principle and some unknown: a verdict where exactly one keeps it, else a tie."""
    kind = rng.choice(KINDS)
    row = world.draw_prompt(rng, held_out=False, kind=kind)
    first = world.draw_answer(rng, kind, rng.choice(DRAFT_QUALITIES))
    second = world.draw_answer(rng, kind, rng.choice(DRAFT_QUALITIES))
    if kind != "dangerous" and rng.random() < 0.5:  # a contrast: more verdicts in a pair than two independent answers give
        differs = {p for p in world.APPLIES[kind] if rng.random() < 0.75}
        second = replace(second, kept=first.kept ^ differs)
    replies = world.render(row.facts, first), world.render(row.facts, second)
    conversations = []
    for principle in (*WORDINGS, *[UNKNOWN] * UNKNOWN_PER_PAIR):
        question = compare_messages(row.messages, *replies, derive(draw_wording(rng, principle))["compare"])
        difference = (principle in first.kept) - (principle in second.kept)
        tie = difference == 0
        option = rng.choice(OPTIONS) if tie else OPTIONS[difference < 0]
        conversations.append(Conversation((*question, assistant(option)), taught=len(question), tie=tie))
    return tuple(conversations)


def _draw_applicable(rng: random.Random, kind: str) -> str:
    """A principle that applies to a kind; the fewer kinds it applies to, the likelier, so that all are taught alike."""
    principles = world.APPLIES[kind]
    weights = [1 / sum(p in applicable for applicable in world.APPLIES.values()) for p in principles]
    return rng.choices(principles, weights)[0]
