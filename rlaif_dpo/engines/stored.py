"""The judgment store under a local engine: option scores that were had once are not computed again."""

from collections.abc import Collection, Iterator, Sequence

from rlaif_dpo.engines.base import FINAL, Completion, Engine, OptionRequest, OptionScores, Request, Spent, Usage
from rlaif_dpo.engines.call import Call, call_key
from rlaif_dpo.engines.store import CallStore
from rlaif_dpo.messages import Message

LOCAL = "local"
"""Stands in the store where an endpoint's URL would."""


class StoredEngine:
    """`engine` with `store` under its `score_options`. Batches are planned over all requests and run where a row is missing.

    Args:
        engine: A local engine.
        store: Where scores are kept.
        weights: What tells the engine's weights from all others, e.g. the content hash of model and adapter: names repeat.
    """

    def __init__(self, engine: Engine, store: CallStore, weights: str) -> None:
        self._engine, self._store, self._weights = engine, store, weights

    @property
    def name(self) -> str:
        return self._engine.name

    @property
    def template_hash(self) -> str:
        return self._engine.template_hash

    @property
    def context_length(self) -> int:
        return self._engine.context_length

    def count_tokens(self, messages: Sequence[Message]) -> int:
        return self._engine.count_tokens(messages)

    def generate(self, requests: Sequence[Request], skip: Collection[str] = ()) -> Iterator[Completion]:
        return self._engine.generate(requests, skip)

    def score_options(self, requests: Sequence[OptionRequest], skip: Collection[str] = ()) -> Iterator[OptionScores]:
        by_id = {request.id: request for request in requests}
        keys = {request.id: self._key(request) for request in requests}
        calls = self._store.get(keys.values())
        had = {id for id, key in keys.items() if key in calls and calls[key].outcome in FINAL}
        yield from (_scores(id, calls[keys[id]]) for id in keys if id in had and id not in skip)
        for scores in self._engine.score_options(requests, skip=had.union(skip)):
            self._store.put(self._call(by_id[scores.id], keys[scores.id], scores))
            yield scores

    def _parameters(self, request: OptionRequest) -> dict[str, object]:
        parts = {"template": self._engine.template_hash, "weights": self._weights, "options": list(request.options)}
        return {"source": "logprob", **parts}

    def _key(self, request: OptionRequest) -> str:
        return call_key(request.messages, LOCAL, self._engine.name, self._parameters(request), 0)

    def _call(self, request: OptionRequest, key: str, scores: OptionScores) -> Call:
        return Call(
            key=key, owner=request.id, base_url=LOCAL, model=self._engine.name, messages=request.messages,
            parameters=self._parameters(request), sample=0, outcome=scores.outcome, text="",
            spent=Spent(Usage(scores.prompt_tokens, 0), 0.0, 0.0, 1),
            option_logprobs=scores.logprobs or None, mass=scores.mass, error=scores.error,
        )  # fmt: skip


def _scores(id: str, call: Call) -> OptionScores:
    return OptionScores(id, call.option_logprobs or (), call.mass or 0.0, call.spent.usage.prompt, call.error, call.outcome)
