"""The engine on an OpenAI-compatible server: what is in the store is not asked, the rest is bought and stored as it comes."""

import asyncio
import threading
from collections import defaultdict, deque
from collections.abc import Callable, Collection, Coroutine, Iterator, Mapping, Sequence
from copy import copy
from dataclasses import asdict
from queue import SimpleQueue

from rlaif_dpo.engines.base import FINAL, Completion, OptionRequest, OptionScores, Request, Source, Spent
from rlaif_dpo.engines.call import Call
from rlaif_dpo.engines.endpoint.background import Background
from rlaif_dpo.engines.endpoint.dialect import Dialect
from rlaif_dpo.engines.endpoint.gate import Closed
from rlaif_dpo.engines.endpoint.replies import Reply
from rlaif_dpo.engines.endpoint.rows import Wanted, to_completion, to_scores, want_scores, want_text
from rlaif_dpo.engines.endpoint.scores import read_scores, read_vote, tally
from rlaif_dpo.engines.endpoint.servers import Servers
from rlaif_dpo.engines.endpoint.spending import Meter, Spending, total
from rlaif_dpo.engines.endpoint.tokens import estimate_tokens
from rlaif_dpo.engines.store import CallStore
from rlaif_dpo.messages import Message
from rlaif_dpo.recipe.schema import Endpoint

BACKLOG = 1024
"""Rows that may wait for a slow consumer before nothing new is started."""
POLL_S = 0.2
"""Between two looks at what another process is buying, and at a full backlog."""

Results = SimpleQueue[tuple[Call, bool]]
"""Calls on their way to the consumer, each with whether it was bought now."""


class EndpointEngine:
    """Implements `Engine` on a server, or on several with the same model: the first one's URL stands for all in what is kept.

    Its texts depend on their requests as far as the server honours the seed.

    A row that the server refuses, filters or cannot answer comes out with its outcome. A refused key, an empty account, a model
    that is not there, a server that fails row after row, or a spent budget stop the iterator with one `UserError`, after what
    was in flight is stored and has come out; another run goes on from there.

    Args:
        settings: The endpoint's section of the recipe.
        store: Where calls are kept and looked up; None: nowhere.
        say: Hears plain sentences: what the server can do, what it does not take. Called from another thread, too.
        name: The endpoint's name in the recipe.

    Raises:
        UserError: No key in the environment variable.
    """

    def __init__(self, settings: Endpoint, store: CallStore | None, say: Callable[[str], None], name: str) -> None:
        self._settings, self._store, self._say, self._name = settings, store, say, name
        self._base_url = settings.urls[0].rstrip("/")
        self._meter = Meter(settings)
        self._servers = Servers(settings, name, self._meter, say)
        self._background = Background()
        self._lock = threading.Lock()
        self._noted: Dialect | None = None
        self._told_votes = self._mistaken = False

    @property
    def name(self) -> str:
        return self._name

    @property
    def template_hash(self) -> str:
        """The template is the server's; the model's name stands for it."""
        return f"endpoint:{self._settings.model}"

    @property
    def context_length(self) -> int:
        return self._settings.context_length

    @property
    def spending(self) -> Spending:
        """What this run has bought so far."""
        return self._meter.spending()

    def anew(self) -> "EndpointEngine":
        """The same engine on the same connections and budget, but without the store: what it is asked, it buys."""
        twin = copy(self)
        twin._store = None
        return twin

    def count_tokens(self, messages: Sequence[Message]) -> int:
        """An estimate: the tokenizer is the server's."""
        return estimate_tokens(messages)

    def close(self) -> None:
        """Close the connections and end the thread."""
        self._background.run(self._servers.close)
        self._background.close()

    def generate(self, requests: Sequence[Request], skip: Collection[str] = ()) -> Iterator[Completion]:
        wanted = []
        for request in requests:
            if request.id in skip:
                continue
            if (reason := self._too_long(request.messages)) is None:
                wanted.append(want_text(request))
            else:
                yield Completion(request.id, "", self.count_tokens(request.messages), 0, "error", reason, "context")
        for owner, call in self._calls(wanted):
            yield to_completion(owner, call)

    def score_options(self, requests: Sequence[OptionRequest], skip: Collection[str] = ()) -> Iterator[OptionScores]:
        asked: dict[str, OptionRequest] = {}
        for request in requests:
            if request.id in skip:
                continue
            if (reason := self._too_long(request.messages)) is None:
                asked[request.id] = request
            else:
                yield OptionScores(request.id, (), 0.0, self.count_tokens(request.messages), reason, "context")
        if not asked:
            return
        source, reasoning = self._source(), self._dialect().reasoning
        votes = self._settings.votes if source == "vote" else 1
        wanted = [want for request in asked.values() for want in want_scores(request, source, votes, reasoning)]
        calls: defaultdict[str, list[Call]] = defaultdict(list)
        for owner, call in self._calls(wanted):
            if source == "logprob":
                yield to_scores(owner, call)
                continue
            calls[owner].append(call)
            if len(calls[owner]) == votes:
                yield tally(asked[owner], calls.pop(owner), source)

    def _source(self) -> Source:
        """Where scores come from on this server. That they are not log-probabilities is said once."""
        if self._dialect().top_logprobs:
            return "logprob"
        votes = self._settings.votes
        copies = votes > 1 and not self._draws()
        if not self._told_votes:
            self._told_votes = True
            why = "without log-probabilities"
            if copies:
                why += f", and with a server that writes the same whatever the seed (its {votes} votes would be copies of one),"
            how = "one verdict, a hard label" if copies or votes == 1 else f"{votes} sampled verdicts"
            self._say(f"{self._name}: {why} each order is judged by {how}")
        return "hard" if copies or votes == 1 else "vote"

    def _calls(self, wanted: Sequence[Wanted]) -> Iterator[tuple[str, Call]]:
        """Every call with its owner, those of the store first. Equal ones are bought once."""
        owners: defaultdict[str, list[str]] = defaultdict(list)
        todo: dict[str, Wanted] = {}
        for want in wanted:
            key = want.key(self._base_url, self._settings.model)
            owners[key].append(want.owner)
            todo.setdefault(key, want)
        had = self._store.get(todo) if self._store else {}
        for key, call in had.items():
            if call.outcome in FINAL:
                del todo[key]
                yield from self._deliver(owners[key], call, bought=False)
        if not todo:
            return
        self._dialect()
        queue = deque(todo.items())

        def buy(results: Results) -> Coroutine[None, None, None]:
            return self._buy_all(queue, had, results)

        try:
            for call, bought in self._background.iterate(buy):
                yield from self._deliver(owners[call.key], call, bought)
        finally:
            self._note()

    def _deliver(self, owners: Sequence[str], call: Call, bought: bool) -> Iterator[tuple[str, Call]]:
        self._meter.count(len(owners), call.outcome, bought)
        return ((owner, call) for owner in owners)

    async def _buy_all(self, todo: deque[tuple[str, Wanted]], before: Mapping[str, Call], results: Results) -> None:
        workers = [self._work(todo, before, results) for _ in range(min(len(todo), self._settings.most_at_once))]
        ends = await asyncio.gather(*workers, return_exceptions=True)
        if any(end is not None for end in ends):
            assert self._servers.reason is not None
            raise self._servers.reason

    async def _work(self, todo: deque[tuple[str, Wanted]], before: Mapping[str, Call], results: Results) -> None:
        try:
            while todo:
                if results.qsize() >= BACKLOG:
                    await self._servers.pause(POLL_S)
                    continue
                key, want = todo.popleft()
                claimed = self._store.claim(key) if self._store else True
                if isinstance(claimed, Call):
                    results.put((claimed, False))
                elif claimed:
                    results.put((await self._buy(key, want, before.get(key)), True))
                else:  # another process is buying it
                    todo.append((key, want))
                    await self._servers.pause(POLL_S)
        except Exception as error:
            self._servers.stop(self._servers.reason or error)
            raise

    async def _buy(self, key: str, want: Wanted, before: Call | None) -> Call:
        """The call, stored. What an earlier one without a final outcome took is added to it."""
        try:
            reply, spent = await self._servers.ask(want.ask)
            call = self._call(key, want, reply, total([before.spent, spent]) if before else spent)
        except BaseException:
            if self._store:
                self._store.release(key)
            raise
        if self._store:
            self._store.put(call)
        return call

    def _call(self, key: str, want: Wanted, reply: Reply, spent: Spent) -> Call:
        logprobs, mass = None, None
        if want.ask.options:
            self._mistaken |= reply.outcome == "ok" and reply.top is None
            reply, logprobs, mass = read_scores(reply, want.ask.options)
        elif "options" in want.parameters:
            reply = read_vote(reply, tuple(want.parameters["options"]))
        return Call(
            key=key, owner=want.owner, base_url=self._base_url, model=self._settings.model, messages=want.ask.messages,
            parameters=want.parameters, sample=want.sample, outcome=reply.outcome, text=reply.text, spent=spent,
            reasoning=reply.reasoning, option_logprobs=logprobs, mass=mass, finish_reason=reply.finish_reason, error=reply.error,
        )  # fmt: skip

    def _dialect(self) -> Dialect:
        """What the server takes: known, noted in the store, or asked now; said once.

        Raises:
            UserError: The server cannot be used.
        """
        with self._lock:
            if self._servers.dialect is None:
                noted = self._store.note(self._note_name) if self._store else None
                if noted is not None and noted.keys() == asdict(Dialect()).keys():
                    self._servers.dialect = self._noted = Dialect(**noted)
                else:
                    self._learn(self._servers.probe)
                assert self._servers.dialect is not None
                where = " and ".join(self._settings.urls)
                self._say(f"{self._name}: {self._settings.model} at {where} {self._servers.dialect.describe()}")
            return self._servers.dialect

    def _draws(self) -> bool:
        """Whether the server draws its texts: known, noted in the store, or asked now.

        Raises:
            UserError: The server cannot be used.
        """
        self._dialect()
        with self._lock:
            assert self._servers.dialect is not None
            known = self._servers.dialect
            if known.draws is None:
                known = self._learn(self._servers.probe_draws)
            return known.draws is not False

    def _learn(self, probe: Callable[[], Coroutine[None, None, Dialect]]) -> Dialect:
        """What `probe` finds out, noted."""
        try:
            found = self._background.run(probe)
        except Closed:
            assert self._servers.reason is not None
            raise self._servers.reason from None
        self._note()
        return found

    @property
    def _note_name(self) -> str:
        return f"dialect {self._base_url} {self._settings.model}"

    def _note(self) -> None:
        """Keep what was learned about the server, or forget it where it has turned out wrong: another run asks anew."""
        known = None if self._mistaken else self._servers.dialect
        if self._store is not None and known != self._noted:
            self._store.set_note(self._note_name, known and asdict(known))
            self._noted = known

    def _too_long(self, messages: Sequence[Message]) -> str | None:
        tokens = self.count_tokens(messages)
        if tokens <= self.context_length:
            return None
        return f"prompt of about {tokens} tokens exceeds endpoints.{self._name}.context_length, {self.context_length}"
