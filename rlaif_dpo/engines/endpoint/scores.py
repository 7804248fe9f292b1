"""Option scores out of a server: read from log-probabilities, or counted from verdicts."""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from math import exp, log

from rlaif_dpo.engines.base import OptionRequest, OptionScores, Outcome, Source
from rlaif_dpo.engines.call import Call
from rlaif_dpo.engines.endpoint.replies import Reply
from rlaif_dpo.engines.endpoint.spending import total

LEAST = 1e-9
"""A probability is known no better than this from a list of rounded log-probabilities."""
BEFORE, AFTER = " \t\n\u2581\u0120\u010a(*[\"'`", " \t\n.):,*]\"'`"
"""What may stand around an option in a token: spaces and line breaks as tokenizers write them, brackets, bold, quotes."""
REFUSAL = re.compile(
    r"\W*(?:(?:i[’']?m|i am) (?:sorry|unable|not able)|sorry|i (?:can(?:no|[’'])?t|won[’']t|must decline))\b", re.I
)


def read_scores(reply: Reply, options: tuple[str, ...]) -> tuple[Reply, tuple[float, ...] | None, float | None]:
    """The reply with the outcome its log-probabilities give it, the options' log-probabilities, and their mass."""
    if reply.outcome != "ok":
        return reply, None, None
    if reply.top is None:  # another provider behind the same URL, or another server
        return replace(reply, outcome="unparsed", error="the reply came without log-probabilities"), None, None
    if (scores := read_options(reply.top, options)) is not None:
        return reply, *scores
    first = max(reply.top, key=lambda entry: entry[1], default=("nothing", 0.0))[0]
    reason = f"none of {', '.join(options)} is among the {len(reply.top)} likeliest tokens (the first is {first!r})"
    return replace(reply, outcome="unparsed", error=reason), None, None


def read_vote(reply: Reply, options: tuple[str, ...]) -> Reply:
    """The reply with the outcome its text gives it."""
    if reply.outcome != "ok" or parse_verdict(reply.text, options) is not None:
        return reply
    if REFUSAL.match(reply.text):
        return replace(reply, outcome="refused", error=f"the model refused: {reply.text[:80]!r}")
    return replace(reply, outcome="unparsed", error=f"the reply names no option: {reply.text[:80]!r}")


def read_options(top: Sequence[tuple[str, float]], options: tuple[str, ...]) -> tuple[tuple[float, ...], float] | None:
    """Log-probabilities of `options` and their mass, from the likeliest tokens; None if no option is among them.

    All spellings of an option (` A`, `a`, `(A`) are summed. One that is not listed has at most the probability of the least
    likely token listed, and at most what the list leaves over: that bound stands for it, and is no part of the mass.
    """
    probabilities = [0.0] * len(options)
    for token, logprob in top:
        if (option := _option_of(token, options)) is not None:
            probabilities[option] += exp(logprob)
    mass = sum(probabilities)
    if mass == 0:
        return None
    listed = [exp(logprob) for _, logprob in top]
    bound = max(LEAST, min(*listed, 1 - sum(listed)))
    return tuple(log(p) if p else log(bound) for p in probabilities), mass


def parse_verdict(text: str, options: tuple[str, ...]) -> int | None:
    """The option that `text` names in the end, by index; None if it names none.

    A verdict in so many words counts first ("Answer: A", "the better reply is B", "A is better"), then an option that stands
    alone on the last line, then the last one named.
    """
    said, alone, named = _patterns(options)
    text = text.strip()
    if found := [match for pattern in said for match in pattern.finditer(text)]:
        return _index(max(found, key=lambda match: match.end())["option"], options)
    last = text.rpartition("\n")[2].strip(BEFORE + AFTER)
    if match := alone.fullmatch(last):
        return _index(match["option"], options)
    mentions = named.findall(text)
    return _index(mentions[-1], options) if mentions else None


def tally(request: OptionRequest, calls: Sequence[Call], source: Source) -> OptionScores:
    """The scores of sampled verdicts: of n that name one of m options, an option named k times gets (k + .5) / (n + m/2)
    (Jeffreys' prior); `mass` is n over all that were asked. If none names an option, the commonest failure is the row's.
    """
    spent = total(call.spent for call in calls)
    read = [parse_verdict(call.text, request.options) for call in calls if call.outcome == "ok"]
    verdicts = Counter(option for option in read if option is not None)
    n = verdicts.total()
    if n == 0:
        outcome: Outcome = Counter(call.outcome for call in calls).most_common(1)[0][0]
        error = next((call.error for call in calls if call.outcome == outcome and call.error), f"no verdict ({outcome})")
        return OptionScores(request.id, (), 0.0, spent.usage.prompt, error, outcome, source, spent)
    share = n + len(request.options) / 2
    logprobs = tuple(log((verdicts[option] + 0.5) / share) for option in range(len(request.options)))
    return OptionScores(request.id, logprobs, n / len(calls), spent.usage.prompt, source=source, spent=spent)


def _option_of(token: str, options: tuple[str, ...]) -> int | None:
    word = token.lstrip(BEFORE).rstrip(AFTER)
    return _index(word, options) if word else None


def _index(word: str, options: tuple[str, ...]) -> int | None:
    """The option `word` is; case counts only where options differ by nothing else."""
    if word in options:
        return options.index(word)
    folded = [option.casefold() for option in options]
    return folded.index(word.casefold()) if word.casefold() in folded and len(set(folded)) == len(folded) else None


@lru_cache(maxsize=16)
def _patterns(options: tuple[str, ...]) -> tuple[tuple[re.Pattern[str], ...], re.Pattern[str], re.Pattern[str]]:
    """Verdicts in so many words; an option alone, in any case; an option as a word, in its own case ("a" is an article)."""
    one = "|".join(sorted(map(re.escape, options), key=len, reverse=True))
    option = rf"(?<![A-Za-z0-9])(?P<option>{one})(?![A-Za-z0-9])"
    noun = r"(?:reply|response|answer|option|choice|assistant)"
    ends_in = (
        rf"(?i:answer|verdict|choice|choose|pick|prefer(?:red|ence)?|better|best|winner)\W*(?i:{noun}\W*)?(?i:is|would be)?\W*"
    )
    return (
        (
            re.compile(rf"{ends_in}(?i:{noun}\W*)?{option}(?!\W*(?i:or|and|nor|over|to|with)\b)"),
            re.compile(
                rf"{option}\W*(?i:is|was|wins|seems|does)\b\W*(?i:the|a|clearly|much|slightly|far|more|\s)*(?i:better|best|preferable|preferred|winner|superior)\b"
            ),
            re.compile(rf"\[\[{option}\]\]"),
        ),
        re.compile(rf"(?i:(?P<option>{one}))"),
        re.compile(option),
    )
