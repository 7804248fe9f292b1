"""One row asked of a server: the only retry loop there is, and the key's only place."""

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from tenacity import AsyncRetrying, RetryCallState, retry_if_exception, stop_after_attempt

from rlaif_dpo.engines.base import Spent, Usage
from rlaif_dpo.engines.endpoint.dialect import DRAWS, OPEN_QUESTION, PROBE, Ask, Dialect
from rlaif_dpo.engines.endpoint.gate import Closed, Gate
from rlaif_dpo.engines.endpoint.key import read_key
from rlaif_dpo.engines.endpoint.replies import Fault, Reply, read_failure, read_reply, read_usage
from rlaif_dpo.engines.endpoint.spending import Meter, add, cost
from rlaif_dpo.engines.endpoint.tokens import estimate_tokens
from rlaif_dpo.errors import UserError
from rlaif_dpo.recipe.schema import Endpoint
from rlaif_dpo.seeding import derive_rng

BACKOFF_S, MOST_BACKOFF_S = 0.5, 60.0
"""The first wait after a fault, doubled with each; where the server names a wait, that one counts, however long."""
NO_KEY = "none"
"""What a server gets that wants no key: the SDK must send one, and must not take another from the environment."""

log = logging.getLogger(__name__)


@dataclass
class _Tally:
    """What the requests of one row took."""

    usage: list[Usage] = field(default_factory=list)
    latency_s: float = 0.0
    attempts: int = 0


class Client:
    """Asks one server. Lives in one event loop.

    Args:
        settings: The endpoint.
        url: The server's, one of the endpoint's.
        name: Its name in the recipe.
        meter: Counts what is bought.
        say: Hears of what the server does not take, and of long pauses.

    Raises:
        UserError: The environment variable with the key is not set, or holds no key.

    Attributes:
        dialect: What the server takes; None before `probe`.
        gate: Who may send.
    """

    def __init__(self, settings: Endpoint, url: str, name: str, meter: Meter, say: Callable[[str], None]) -> None:
        self._settings, self._name, self._meter, self._say = settings, name, meter, say
        self.url = url
        self._key = read_key(settings, name)
        self._sdk: Any = None
        self._given_up = 0
        self.dialect: Dialect | None = None
        self.gate = Gate(settings, name, meter, say)

    async def ask(self, ask: Ask) -> tuple[Reply, Spent]:
        """The row's outcome and what it took. A reply that used up its room on thinking gets twice the room, once.

        Raises:
            Closed: The run is to stop; `gate.reason` says why.
        """
        tally = _Tally()
        reply = await self._persist(ask, tally)
        if reply.outcome == "empty" and reply.finish_reason == "length":
            reply = await self._persist(replace(ask, max_tokens=2 * ask.max_tokens), tally)
        usage = add(*tally.usage) if tally.usage else Usage(0, 0, estimated=True)
        return reply, Spent(usage, cost(usage, self._settings.price), tally.latency_s, tally.attempts)

    async def probe(self) -> Dialect:
        """Ask one A/B question with everything on, and learn from what comes.

        Raises:
            Closed: The server cannot be used; `gate.reason` says why.
        """
        self.dialect = Dialect()
        try:
            reply = await self._persist(PROBE, _Tally())
            if reply.outcome not in ("ok", "empty"):
                self.gate.close(UserError(f"endpoint {self._name}: {self.url} cannot be used: {reply.error}"))
                raise Closed
        except BaseException:
            self.dialect = None
            raise
        reasoning = bool(reply.reasoning) or (not reply.text and reply.finish_reason == "length")
        usable = not reasoning and len(reply.top or ()) > 1  # one token alone says nothing of the other option
        self.dialect = replace(self.dialect, reasoning=reasoning, top_logprobs=self.dialect.top_logprobs if usable else 0)
        return self.dialect

    async def probe_draws(self) -> Dialect:
        """After `probe`: ask one open question with one seed after the other until two answers differ, and note whether they do.

        Answers that are not shown tell nothing; a server that shows fewer than two passes for one that draws.

        Raises:
            Closed: The run is to stop; `gate.reason` says why.
        """
        assert self.dialect is not None
        answers: list[tuple[str | None, str]] = []
        for seed in range(DRAWS):
            reply = await self._persist(replace(OPEN_QUESTION, seed=seed), _Tally())
            if reply.text or reply.reasoning:
                answers.append((reply.reasoning, reply.text))
            if len(set(answers)) > 1:
                break
        self.dialect = replace(self.dialect, draws=len(answers) < 2 or len(set(answers)) > 1)
        return self.dialect

    async def close(self) -> None:
        if self._sdk is not None:
            await self._sdk.close()

    async def _persist(self, ask: Ask, tally: _Tally) -> Reply:
        """Try until there is an outcome; the last one is "error"."""

        def wait(state: RetryCallState) -> float:
            fault = state.outcome.exception() if state.outcome else None
            if not isinstance(fault, Fault) or fault.kind == "rate":
                return 0.0  # the gate cools everybody down
            jitter = 0.5 + derive_rng(ask.seed, *ask.messages, state.attempt_number).random()
            return fault.wait_s if fault.wait_s is not None else _backoff(state.attempt_number) * jitter

        retrying = AsyncRetrying(
            sleep=self.gate.pause,
            stop=stop_after_attempt(self._settings.max_attempts),
            wait=wait,
            retry=retry_if_exception(lambda error: isinstance(error, Fault)),
            reraise=True,
        )
        try:
            reply: Reply = await retrying(self._attempt, ask, tally)
        except Fault as fault:
            reply = Reply("error", error=f"gave up after {tally.attempts} requests: {fault}")
            self._given_up += 1
            if self._given_up >= self._settings.concurrency:
                problem = f"{self._given_up} rows in a row failed, the last one with: {fault}"
                fix = "every answer is kept; see to the server and run again to go on"
                self.gate.close(UserError(f"endpoint {self._name}: {problem}; {fix}"))
        else:
            self._given_up = 0
        return reply

    async def _attempt(self, ask: Ask, tally: _Tally) -> Reply:
        """One try; a parameter that the server does not take is left out and the request sent again."""
        while True:
            dialect = self.dialect or Dialect()
            prompt = estimate_tokens(ask.messages)
            hold = await self.gate.enter(prompt, ask.max_tokens)
            sent_at, usage = time.monotonic(), None
            try:
                tally.attempts += 1
                response = await self._send(dialect.body(ask, self._settings.model))
                tally.latency_s = time.monotonic() - sent_at
                usage = read_usage(response)
                reply = self._read(response, wants_text=ask.options is None or not dialect.top_logprobs)
                if usage is None and reply.outcome in ("ok", "empty", "refused"):
                    usage = Usage(prompt, -(-len(reply.text + (reply.reasoning or "")) // 4), estimated=True)
                self.gate.grow()
                return reply
            except Fault as fault:
                log.debug("%s: request %d, %s: %s", self._name, tally.attempts, fault.kind, fault)
                if fault.kind == "parameter" and fault.parameter is not None and self._adapt(dialect, fault.parameter):
                    continue
                if fault.kind == "parameter":
                    return Reply("error", error=f"the server does not take the request: {fault}")
                if fault.kind == "stop":
                    self.gate.close(UserError(f"endpoint {self._name}: {fault}"))
                    raise Closed from None
                if fault.kind == "rate":
                    self.gate.push_back(_backoff(tally.attempts) if fault.wait_s is None else fault.wait_s, sent_at)
                raise
            finally:
                if usage is not None:
                    tally.usage.append(usage)
                self.gate.leave(hold, usage)

    def _adapt(self, dialect: Dialect, parameter: str) -> bool:
        """Whether another try makes sense: the dialect was changed, by this call or by one before it."""
        if self.dialect == dialect:
            changed = dialect.without(parameter)
            if changed is None:
                return False
            self.dialect = changed
            self._say(f"{self._name}: the server does not take {parameter} as it was sent; asked without it from now on")
        return True

    async def _send(self, body: dict[str, Any]) -> object:
        """The reply's JSON, or the SDK's exception: handed back, so that no later exception holds it (and the key)."""
        import openai

        if self._sdk is None:
            settings = self._settings
            key = self._key or NO_KEY
            self._sdk = openai.AsyncOpenAI(
                base_url=self.url,
                api_key=key,
                max_retries=0,
                timeout=settings.timeout_s,
                # The default transport walks through all connections for every request: twice the CPU time at 64 in flight.
                http_client=openai.DefaultAioHttpClient(),
            )
        try:
            async with asyncio.timeout(self._settings.timeout_s):
                # What `chat.completions.create` calls after it has walked through every parameter, and without its models of
                # the reply: both cost more of a call's time than all that we do with it.
                return await self._sdk.post("/chat/completions", body=body, cast_to=object)
        except Exception as error:
            return error

    def _read(self, response: object, wants_text: bool) -> Reply:
        """The outcome, with the key taken out of all that it says."""
        try:
            reply = read_failure(response) if isinstance(response, Exception) else read_reply(response, wants_text)
        except Fault as fault:
            cleaned = Fault(fault.kind, self._scrub(str(fault)), fault.wait_s, fault.parameter)
        else:
            reasoning, error = reply.reasoning and self._scrub(reply.reasoning), reply.error and self._scrub(reply.error)
            return replace(reply, text=self._scrub(reply.text), reasoning=reasoning, error=error)
        raise cleaned

    def _scrub(self, text: str) -> str:
        return text.replace(self._key, "[key]") if self._key else text


def _backoff(attempt: int) -> float:
    return min(MOST_BACKOFF_S, BACKOFF_S * 2.0 ** (attempt - 1))
