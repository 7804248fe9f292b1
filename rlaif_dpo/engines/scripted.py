"""An engine whose answers are written by a test."""

from collections.abc import Callable, Collection, Iterator, Sequence
from math import exp

from rlaif_dpo.engines.base import Completion, OptionRequest, OptionScores, Request
from rlaif_dpo.messages import Message


def _no_reply(request: Request) -> str:
    raise AssertionError(f"no reply is scripted for {request.id}")


def _no_choice(request: OptionRequest) -> Sequence[float]:
    raise AssertionError(f"no choice is scripted for {request.id}")


class ScriptedEngine:
    """Implements `Engine` from two functions; tokens are words. An exception from one of them becomes the row's error.

    Attributes:
        generated: The ids that were answered, in order.
        scored: The ids whose options were scored, in order.
    """

    def __init__(
        self,
        reply: Callable[[Request], str | Exception] = _no_reply,
        choose: Callable[[OptionRequest], Sequence[float]] = _no_choice,
        *,
        name: str = "scripted",
        context_length: int = 100_000,
    ) -> None:
        self._reply, self._choose, self._name, self._context_length = reply, choose, name, context_length
        self.generated: list[str] = []
        self.scored: list[str] = []

    @property
    def name(self) -> str:
        return self._name

    @property
    def template_hash(self) -> str:
        return "scripted"

    @property
    def context_length(self) -> int:
        return self._context_length

    def count_tokens(self, messages: Sequence[Message]) -> int:
        return sum(len(message["content"].split()) for message in messages)

    def generate(self, requests: Sequence[Request], skip: Collection[str] = ()) -> Iterator[Completion]:
        for request in requests:
            if request.id in skip:
                continue
            self.generated.append(request.id)
            prompt_tokens = self.count_tokens(request.messages)
            try:
                reply = self._reply(request)
                if isinstance(reply, Exception):
                    raise reply
            except AssertionError:
                raise
            except Exception as error:
                yield Completion(request.id, "", prompt_tokens, 0, "error", str(error))
                continue
            yield Completion(request.id, reply, prompt_tokens, len(reply.split()), "stop")

    def score_options(self, requests: Sequence[OptionRequest], skip: Collection[str] = ()) -> Iterator[OptionScores]:
        for request in requests:
            if request.id in skip:
                continue
            self.scored.append(request.id)
            prompt_tokens = self.count_tokens(request.messages)
            try:
                logprobs = tuple(self._choose(request))
            except AssertionError:
                raise
            except Exception as error:
                yield OptionScores(request.id, (), 0.0, prompt_tokens, str(error))
                continue
            yield OptionScores(request.id, logprobs, sum(map(exp, logprobs)), prompt_tokens)
