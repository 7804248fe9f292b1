"""What endpoints charge for a run, counted before anything is spent."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from rlaif_dpo.constitution.schema import Constitution
from rlaif_dpo.engines.base import Usage
from rlaif_dpo.engines.endpoint.dialect import DRAWS, OPEN_QUESTION, PROBE
from rlaif_dpo.engines.endpoint.rows import VERDICT_ROOM
from rlaif_dpo.engines.endpoint.spending import cost
from rlaif_dpo.engines.endpoint.tokens import estimate_tokens
from rlaif_dpo.evaluate.suites import SuitePrompt
from rlaif_dpo.pipeline.work import Prompts, Work, work_of
from rlaif_dpo.recipe.schema import Endpoint, Recipe

FAST, SLOW = (0.3, 100.0), (3.0, 20.0)
"""A request's seconds before its first token, and its tokens per second after it: of a quick server and of a slow one."""


@dataclass(frozen=True)
class Bill:
    """What an endpoint is asked for in all, its probes included. Pairs are (with log-probabilities, by votes).

    Attributes:
        endpoint: Its name in the recipe.
        model: The model's name there.
        requests: At most, but for those that fail and are sent again.
        tokens_in: At most.
        tokens_out: At most.
        usd: At most; None where the recipe gives no price.
        seconds: From a quick server with log-probabilities to a slow one by votes, within the endpoint's limits.
        exact: Whether `requests` is their number.
        warnings: A sentence for each limit that does not cover all of it.
    """

    endpoint: str
    model: str
    requests: tuple[int, int]
    tokens_in: tuple[int, int]
    tokens_out: tuple[int, int]
    usd: tuple[float, float] | None
    seconds: tuple[float, float]
    exact: bool
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class Cost:
    """What drafter, critic and judges are asked, and what endpoints take for it."""

    works: tuple[Work, ...]
    bills: tuple[Bill, ...]


def cost_of(recipe: Recipe, constitution: Constitution, prompts: Prompts, suites: Sequence[SuitePrompt] = ()) -> Cost:
    """The drafter's, the critic's and the judges' work on `prompts` by phase and on `suites`, and the bill of every endpoint.

    Raises:
        UserError: A template, rulebook or example file that cannot be used.
    """
    works = work_of(recipe, constitution, prompts, suites)
    bills = [bill_of(name, endpoint, works) for name, endpoint in recipe.endpoints.items()]
    return Cost(works, tuple(bill for bill in bills if bill is not None))


def bill_of(name: str, endpoint: Endpoint, works: Sequence[Work]) -> Bill | None:
    """The bill of the endpoint `name`; None where it is asked nothing."""
    own = [work for work in works if work.model == name and work.requests]
    if not own:
        return None
    scored, written = [work for work in own if work.scored], [work for work in own if not work.scored]

    votes = endpoint.votes
    draws = DRAWS if scored and votes > 1 else 0

    def both(of: Callable[[Work], int], probe: int, draw: int, by_votes: Callable[[Work], int]) -> tuple[int, int]:
        common = probe + sum(of(work) for work in written)
        return common + sum(of(work) for work in scored), common + draws * draw + sum(by_votes(work) for work in scored)

    requests = both(lambda w: w.requests, 1, 1, lambda w: w.requests * votes)
    probe_tokens, draw_tokens = (estimate_tokens(ask.messages) for ask in (PROBE, OPEN_QUESTION))
    tokens_in = both(lambda w: w.tokens_in, probe_tokens, draw_tokens, lambda w: w.tokens_in * votes)
    tokens_out = both(
        lambda w: w.tokens_out, PROBE.max_tokens, OPEN_QUESTION.max_tokens, lambda w: w.requests * votes * VERDICT_ROOM
    )
    usds = [cost(Usage(read, wrote), endpoint.price) for read, wrote in zip(tokens_in, tokens_out, strict=True)]
    usd = None if usds[0] is None or usds[1] is None else (usds[0], usds[1])
    tokens = (tokens_in[0] + tokens_out[0], tokens_in[1] + tokens_out[1])
    exact = all(work.exact for work in own)
    return Bill(
        endpoint=name,
        model=endpoint.model,
        requests=requests,
        tokens_in=tokens_in,
        tokens_out=tokens_out,
        usd=usd,
        seconds=(
            _seconds(endpoint, requests[0], tokens_in[0], tokens_out[0], *FAST),
            _seconds(endpoint, requests[1], tokens_in[1], tokens_out[1], *SLOW),
        ),
        exact=exact,
        warnings=tuple(_warnings(name, endpoint, requests, tokens, usd, exact)),
    )


def _seconds(endpoint: Endpoint, requests: int, read: int, wrote: int, wait: float, pace: float) -> float:
    """How long it takes: side by side as far as `concurrency` goes, and no faster than the limits per minute allow."""
    at_once, servers = min(endpoint.most_at_once, requests), len(endpoint.urls)
    minutes = [
        (requests - servers) / (endpoint.requests_per_minute * servers) if endpoint.requests_per_minute else 0.0,
        (read + wrote) / (endpoint.tokens_per_minute * servers) if endpoint.tokens_per_minute else 0.0,
    ]
    return max((requests * wait + wrote / pace) / at_once, *(60 * minute for minute in minutes))


def _warnings(
    name: str,
    endpoint: Endpoint,
    requests: tuple[int, int],
    tokens: tuple[int, int],
    usd: tuple[float, float] | None,
    exact: bool,
) -> Iterator[str]:
    def span(of: tuple[float, float], shown: Callable[[float], str]) -> str:
        return shown(of[0]) if of[0] == of[1] else f"{shown(of[0])} to {shown(of[1])}"

    verb = "needs" if exact else "may need"
    for key, limit, of, needed in (
        ("max_calls", endpoint.max_calls, requests, f"{span(requests, '{:,}'.format)} requests"),
        ("max_tokens", endpoint.max_tokens, tokens, f"{span(tokens, '{:,}'.format)} tokens"),
        ("max_usd", endpoint.max_usd, usd, span(usd, "${:.2f}".format) if usd else ""),
    ):
        if limit is not None and of is not None and of[1] > limit:
            yield f"endpoints.{name}.{key} = {limit:g}: the run {verb} {needed}; it stops there and keeps everything"
