"""What a judge was asked and said, and how it is asked which of its judgments is the better one (Wu et al. 2024, 2407.19594)."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, pvariance
from typing import Any

from rlaif_dpo.constitution.schema import derive
from rlaif_dpo.judges.additive import additive_messages, score_of
from rlaif_dpo.judges.base import Comparison, Criterion
from rlaif_dpo.judges.logits import sigmoid
from rlaif_dpo.judges.templates import Template, load_template
from rlaif_dpo.messages import Message
from rlaif_dpo.recipe.schema import JudgeSettings
from rlaif_dpo.seeding import content_hash

GOOD = "A judgment says what is true of what it judges, passes over nothing that it was asked about, and ends in what follows."
META = Criterion("meta", derive(GOOD)["compare"], text=GOOD)
"""What the meta-judge compares two judgments under."""


@dataclass(frozen=True)
class Judged:
    """A question to a judge and what it answered.

    Attributes:
        messages: The question, as it was put.
        judgments: The different answers, in the order in which they came.
        variance: Of what they say, as far as it is known: of the scores of reviews, in points; else p (1 - p) of the verdict.
    """

    messages: tuple[Message, ...]
    judgments: tuple[str, ...]
    variance: float

    @property
    def id(self) -> str:
        """The same for the same question."""
        return content_hash(self.messages[0]["content"])


def judged_of(comparison: Comparison, judgment: Mapping[str, Any], settings: JudgeSettings) -> Iterator[Judged]:
    """The questions behind the row of a `judgment` on `comparison`, but for those that failed.

    Of an additive judge a question is about one reply, and a judgment is a review that names a score. Of a pairwise one it is
    about both replies in one order, under one principle, and a judgment is the rationale, or without any the option, of two.
    """
    verdicts = {verdict["principle_id"]: verdict for verdict in judgment["verdicts"] if verdict["p"] is not None}
    if settings.kind == "additive":
        if verdict := verdicts.get("points"):
            yield from (
                _reviewed(additive_messages(comparison, reply), verdict[f"rationales_{order}"])
                for reply, order in ((comparison.first, "ab"), (comparison.second, "ba"))
            )
        return
    template = load_template(settings.template)
    for criterion in comparison.criteria:
        if verdict := verdicts.get(criterion.principle_id):
            yield from (_compared(template, comparison, criterion, verdict, order) for order in ("ab", "ba"))


@dataclass(frozen=True)
class LongestQuestion:
    """A question to a judge before there are replies; both numbers are tokens, at most.

    Attributes:
        messages: With empty replies.
        replies: Of the replies in it.
        judgment: Of its answer.
    """

    messages: tuple[Message, ...]
    replies: int
    judgment: int


def longest_question(pair: Comparison, settings: JudgeSettings, room: int) -> LongestQuestion | None:
    """The longest of `judged_of` about a `pair` of empty replies, each to have `room` tokens; None without a principle for it."""
    if settings.kind == "additive":
        return LongestQuestion(additive_messages(pair, ""), room, settings.rationale_tokens)
    if not pair.criteria:
        return None
    template, longest = load_template(settings.template), max(pair.criteria, key=lambda criterion: len(criterion.compare))
    ask, judgment = (template.ask_why, settings.rationale_tokens) if settings.reasoning == "cot" else (template.ask, 1)
    return LongestQuestion(ask(pair, longest, swapped=False), 2 * room, judgment)


def most_judgments(settings: JudgeSettings) -> int:
    """The most judgments of one question."""
    return settings.rationales if settings.kind == "additive" or settings.reasoning == "cot" else 2


def _reviewed(messages: tuple[Message, ...], reviews: Sequence[str]) -> Judged:
    scored = [(review, score) for review in reviews if (score := score_of(review)) is not None]
    return Judged(messages, tuple(dict.fromkeys(review for review, _ in scored)), pvariance([score for _, score in scored]))


def _compared(template: Template, comparison: Comparison, criterion: Criterion, verdict: Mapping[str, Any], order: str) -> Judged:
    first, second = verdict[f"logprobs_{order}"]
    p, swapped = sigmoid(first - second), order == "ba"
    if rationales := verdict[f"rationales_{order}"]:
        return Judged(template.ask_why(comparison, criterion, swapped), tuple(dict.fromkeys(rationales)), p * (1 - p))
    return Judged(template.ask(comparison, criterion, swapped), template.options, p * (1 - p))


@dataclass(frozen=True)
class Game:
    """Two judgments of one question, by their places, compared in both orders.

    Attributes:
        first: A place.
        second: Another.
        p_first: P(`first` is better) when it is shown first.
        p_second: The same when it is shown second.
    """

    first: int
    second: int
    p_first: float
    p_second: float


def game_of(row: Mapping[str, Any], first: int, second: int) -> Game | None:
    """The game in the row of a meta-judgment; None where it was not had."""
    if row["p"] is None:
        return None
    verdict = row["verdicts"][0]
    (a, b), (c, d) = verdict["logprobs_ab"], verdict["logprobs_ba"]
    return Game(first, second, sigmoid(a - b), sigmoid(c - d))


def first_wins(games: Iterable[Game]) -> float | None:
    """The share of wins of the judgment that is shown first, over both orders of all `games`; None without any. No bias is .5."""
    wins = [share for game in games for share in (game.p_first, 1 - game.p_second)]
    return fmean(wins) if wins else None
