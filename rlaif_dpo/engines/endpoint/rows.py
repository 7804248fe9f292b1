"""Between what is asked of the engine and what is asked of the server: requests to calls, calls to rows."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from rlaif_dpo.engines.base import Completion, OptionRequest, OptionScores, Request, Source
from rlaif_dpo.engines.call import Call, call_key
from rlaif_dpo.engines.endpoint.dialect import Ask
from rlaif_dpo.seeding import derive_seed

VERDICT_ROOM, REASONING_ROOM = 256, 2048
"""Tokens for a sampled verdict, and for one of a model that reasons first."""


@dataclass(frozen=True)
class Wanted:
    """A call for the request `owner`. `parameters` is what its answer depends on beside messages, model and server."""

    owner: str
    ask: Ask
    parameters: Mapping[str, Any]
    sample: int = 0

    def key(self, base_url: str, model: str) -> str:
        """Its key in the store."""
        return call_key(self.ask.messages, base_url, model, self.parameters, self.sample)


def want_text(request: Request) -> Wanted:
    """The one call of a completion. Without a temperature nothing is drawn, so the seed is no part of it."""
    sampling = request.sampling
    seed = request.seed if sampling.temperature else None
    ask = Ask(request.messages, sampling.temperature, sampling.top_p, sampling.max_new_tokens, seed)
    return Wanted(request.id, ask, _drawn(ask, "text") | {"max_tokens": ask.max_tokens})


def want_scores(request: OptionRequest, source: Source, votes: int, reasoning: bool) -> Iterator[Wanted]:
    """The calls behind one row of scores: one with log-probabilities, at temperature 1, where no server rescales them; or the
    verdicts, each with a seed of its own.

    Raises:
        ValueError: An option begins another ("1", "10"), so that its first token may be the other's.
    """
    options = {"options": list(request.options)}
    if source == "logprob":
        if any(a != b and b.startswith(a) for a in request.options for b in request.options):
            raise ValueError(f"an endpoint's log-probabilities are of single tokens, but one of {request.options} begins another")
        ask = Ask(request.messages, 1.0, 1.0, 1, None, request.options)
        yield Wanted(request.id, ask, _drawn(ask, source) | options)
        return
    room = REASONING_ROOM if reasoning else VERDICT_ROOM
    for sample in range(votes):
        seed = derive_seed(request.seed, "vote", sample) if source == "vote" else None
        ask = Ask(request.messages, 1.0 if source == "vote" else 0.0, 1.0, room, seed)
        yield Wanted(request.id, ask, _drawn(ask, source) | options, sample)


def to_completion(id: str, call: Call) -> Completion:
    usage, failed = call.spent.usage, call.outcome != "ok"
    return Completion(
        id=id,
        text="" if failed else call.text,
        prompt_tokens=usage.prompt,
        completion_tokens=usage.completion,
        finish_reason="error" if failed else "length" if call.finish_reason == "length" else "stop",
        error=call.error if failed else None,
        outcome=call.outcome,
        reasoning=call.reasoning,
        spent=call.spent,
    )


def to_scores(id: str, call: Call) -> OptionScores:
    return OptionScores(
        id, call.option_logprobs or (), call.mass or 0.0, call.spent.usage.prompt, call.error, call.outcome, "logprob", call.spent
    )


def _drawn(ask: Ask, source: str) -> dict[str, Any]:
    return {"source": source, "temperature": ask.temperature, "top_p": ask.top_p, "seed": ask.seed}
