"""Who may send when: bounded concurrency that adapts, one cooldown for all, limits per minute, room in the budget."""

import asyncio
import time
from collections.abc import Callable
from itertools import islice

from rlaif_dpo.engines.base import Usage
from rlaif_dpo.engines.endpoint.spending import Hold, Meter, budget_spent, count_tokens
from rlaif_dpo.recipe.schema import Endpoint

GROWTH = 0.25
"""What a reply adds to the number of requests allowed in flight; a push-back halves it."""
LONG_WAIT_S = 20.0
"""A pause that is worth a sentence."""


class Closed(Exception):
    """The gate lets nobody through any more; `Gate.reason` says why."""


class Pace:
    """Spreads what is sent over the minute: `reserve` says how long to wait, so that no minute sees more than its share."""

    def __init__(self, per_minute: int | None) -> None:
        self._seconds = 60 / per_minute if per_minute else 0.0
        self._next = 0.0

    def reserve(self, amount: float) -> float:
        now = time.monotonic()
        at = max(now, self._next)
        self._next = at + amount * self._seconds
        return at - now

    def correct(self, amount: float) -> None:
        """The reservation was `amount` too small (or too large, below 0)."""
        self._next += amount * self._seconds


class Gate:
    """Lives in one event loop. Every request passes `enter` before and `leave` after.

    Attributes:
        limit: How many may be in flight now.
        in_flight: How many are.
        reason: Why it is closed; None while it is open.
    """

    def __init__(self, settings: Endpoint, name: str, meter: Meter, say: Callable[[str], None]) -> None:
        self._settings, self._name, self._meter, self._say = settings, name, meter, say
        self._requests, self._tokens = Pace(settings.requests_per_minute), Pace(settings.tokens_per_minute)
        self._shut = asyncio.Event()
        self._waiting: dict[asyncio.Future[None], None] = {}
        self._cool_at = self._halved_at = 0.0
        self.limit, self.in_flight = float(settings.concurrency), 0
        self.reason: BaseException | None = None

    async def enter(self, prompt: int, room: int) -> Hold:
        """Wait for a place, the end of a cooldown, the pace, and room in the budget, which is held for the call.

        Args:
            prompt: Its tokens, as guessed.
            room: The most tokens of its answer.

        Raises:
            Closed: There is nothing to wait for.
        """
        while True:
            if self.reason is not None:
                raise Closed
            hold = self._meter.estimate(prompt, room)
            if (wait := self._cool_at - time.monotonic()) > 0:
                await self.pause(wait)
            elif self.in_flight >= int(self.limit):
                await self._turn()
            elif (limit := self._meter.limit(hold)) is None:
                break
            elif self.in_flight:  # what is in flight may turn out cheaper than it was held for
                await self._turn()
            else:
                self.close(budget_spent(self._settings, self._name, limit, self._meter.spending()))
        self.in_flight += 1
        self._meter.send(hold)
        try:
            await self.pause(max(self._requests.reserve(1), self._tokens.reserve(count_tokens(hold.usage))))
            while (wait := self._cool_at - time.monotonic()) > 0:  # a cooldown may have begun meanwhile
                await self.pause(wait)
        except BaseException:
            self._meter.calls -= 1
            self.leave(hold, None)
            raise
        return hold

    def leave(self, hold: Hold, usage: Usage | None) -> None:
        """Count what the call took and let the next one go."""
        self.in_flight -= 1
        self._meter.receive(hold, usage)
        if usage is not None:
            self._tokens.correct(count_tokens(usage) - count_tokens(hold.usage))
        self._wake()

    @property
    def cooling(self) -> bool:
        """Whether the server asked for a pause that is not over."""
        return time.monotonic() < self._cool_at

    def grow(self) -> None:
        """A reply came: allow a little more."""
        self.limit = min(self._settings.concurrency, self.limit + GROWTH)

    def push_back(self, wait_s: float, sent_at: float) -> None:
        """The server is overloaded: nobody sends for `wait_s`. Requests sent before the last halving do not halve again."""
        now = time.monotonic()
        if sent_at >= self._halved_at:
            self.limit, self._halved_at = max(1.0, self.limit / 2), now
        if wait_s >= LONG_WAIT_S and self._cool_at < now:
            self._say(f"{self._name}: the server asks for a pause of {wait_s:.0f} s")
        self._cool_at = max(self._cool_at, now + wait_s)

    async def pause(self, seconds: float) -> None:
        """Sleep, but not past the closing.

        Raises:
            Closed: The gate was closed meanwhile.
        """
        if seconds > 0 and self.reason is None:
            try:
                await asyncio.wait_for(self._shut.wait(), seconds)
            except TimeoutError:
                return
        if self.reason is not None:
            raise Closed

    def close(self, reason: BaseException) -> None:
        """Let nobody in any more; what is in flight may finish. The first reason counts."""
        if self.reason is None:
            self.reason = reason
        self._shut.set()
        for turn in self._waiting:
            if not turn.done():
                turn.set_result(None)
        self._waiting.clear()

    async def _turn(self) -> None:
        turn = asyncio.get_running_loop().create_future()
        self._waiting[turn] = None
        try:
            await turn
        except asyncio.CancelledError:
            self._waiting.pop(turn, None)
            self._wake()  # the place may have been given to this one
            raise

    def _wake(self) -> None:
        for turn in list(islice(self._waiting, max(0, int(self.limit) - self.in_flight))):
            del self._waiting[turn]
            if not turn.done():
                turn.set_result(None)
