"""An endpoint at one URL or at several: the same model behind each, the load shared between them."""

import asyncio
from collections import Counter
from collections.abc import Callable, Coroutine
from typing import Any

from rlaif_dpo.engines.base import Spent
from rlaif_dpo.engines.endpoint.client import Client
from rlaif_dpo.engines.endpoint.dialect import Ask, Dialect
from rlaif_dpo.engines.endpoint.gate import Closed
from rlaif_dpo.engines.endpoint.replies import Reply
from rlaif_dpo.engines.endpoint.spending import BudgetSpent, Meter, total
from rlaif_dpo.errors import UserError
from rlaif_dpo.recipe.schema import Endpoint


class Servers:
    """Lives in one event loop. Every server has its own client, with pauses, limits and retries of its own; the budget is one.

    A row goes to the server with the fewest rows. One that fails it hands it on to the next; one that fails row after row, or
    refuses the key or the model, is left out, and the others go on.

    Args:
        settings: The endpoint.
        name: Its name in the recipe.
        meter: Counts what is bought.
        say: Hears of what the servers do not take, of long pauses, and of a server that is left out.

    Raises:
        UserError: The environment variable with the key is not set, or holds no key.
    """

    def __init__(self, settings: Endpoint, name: str, meter: Meter, say: Callable[[str], None]) -> None:
        self._name, self._say = name, say
        self.clients = [Client(settings, url, name, meter, say) for url in settings.urls]
        self._rows: Counter[str] = Counter()
        self._left_out: set[str] = set()

    @property
    def dialect(self) -> Dialect | None:
        """What the servers take; None before `probe`."""
        return self.clients[0].dialect

    @dialect.setter
    def dialect(self, found: Dialect) -> None:
        for client in self.clients:
            client.dialect = found

    @property
    def reason(self) -> BaseException | None:
        """Why nobody is asked any more; None while a server is open and nothing but servers failed."""
        reasons = [client.gate.reason for client in self.clients]
        ended = [reason for reason in reasons if reason is not None and not _of_one_server(reason)]
        return ended[0] if ended else None if None in reasons else reasons[-1]

    async def ask(self, ask: Ask) -> tuple[Reply, Spent]:
        """The row's outcome and what it took, at all servers that it was asked of.

        Raises:
            Closed: The run is to stop; `reason` says why.
        """
        tried: set[str] = set()
        taken: list[tuple[Reply, Spent]] = []
        while client := self._next(tried):
            self._rows[client.url] += 1
            try:
                taken.append(await client.ask(ask))
            except Closed:
                if self.reason is not None:
                    raise
            finally:
                self._rows[client.url] -= 1
            self._leave_out_if_closed(client)
            tried.add(client.url)
            if taken and taken[-1][0].outcome != "error":
                break
        if not taken:
            raise Closed
        return taken[-1][0], total(spent for _, spent in taken)

    async def probe(self) -> Dialect:
        """What the first server that answers understands; the others are taken to understand the same."""
        return await self._find_out(lambda client: client.probe())

    async def probe_draws(self) -> Dialect:
        """The same with whether it draws its texts."""
        return await self._find_out(lambda client: client.probe_draws())

    async def pause(self, seconds: float) -> None:
        """Sleep.

        Raises:
            Closed: The run is to stop.
        """
        await asyncio.sleep(seconds)
        if self.reason is not None:
            raise Closed

    def stop(self, reason: BaseException) -> None:
        """Ask nobody any more; what is in flight may finish."""
        for client in self.clients:
            client.gate.close(reason)

    async def close(self) -> None:
        for client in self.clients:
            await client.close()

    def _next(self, tried: set[str]) -> Client | None:
        """Of those that are open and not tried, the one with the fewest rows; one that asked for a pause comes last."""
        open_ones = [client for client in self.clients if client.gate.reason is None and client.url not in tried]
        return min(open_ones, key=lambda client: (client.gate.cooling, self._rows[client.url]), default=None)

    async def _find_out(self, find: Callable[[Client], Coroutine[Any, Any, Dialect]]) -> Dialect:
        for client in self.clients:
            if client.gate.reason is None:
                try:
                    self.dialect = found = await find(client)
                except Closed:
                    if self.reason is not None:
                        raise
                    self._leave_out_if_closed(client)
                else:
                    return found
        raise Closed

    def _leave_out_if_closed(self, client: Client) -> None:
        """Say so, once; `_next` leaves it out anyway. Where all have ended, the reason is told instead."""
        if client.gate.reason is not None and self.reason is None and client.url not in self._left_out:
            self._left_out.add(client.url)
            self._say(f"{self._name}: goes on without {client.url} ({client.gate.reason})")


def _of_one_server(reason: BaseException) -> bool:
    """Whether others may still be asked: a spent budget is everybody's."""
    return isinstance(reason, UserError) and not isinstance(reason, BudgetSpent)
