"""What an endpoint has cost in this run, and where it stops."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from rlaif_dpo.engines.base import Outcome, Spent, Usage
from rlaif_dpo.errors import UserError
from rlaif_dpo.recipe.schema import Endpoint, Price

NOTHING = Usage(0, 0)


class BudgetSpent(UserError):
    """A limit of the recipe is reached. Everything that was bought is kept."""


@dataclass(frozen=True)
class Spending:
    """What this run has bought so far.

    Attributes:
        calls: Requests sent, those that failed among them.
        tokens: Prompt and completion, as far as the server or an estimate says.
        usd: None where the recipe gives no price.
        bought: Rows whose answer this run bought.
        from_store: Rows whose answer was there.
        outcomes: All rows by outcome.
    """

    calls: int
    tokens: int
    usd: float | None
    bought: int
    from_store: int
    outcomes: dict[str, int]


@dataclass(frozen=True)
class Hold:
    """Room held for a call: its prompt's tokens as they were guessed, and what it will take by what is known so far."""

    guess: int
    usage: Usage


@dataclass
class Meter:
    """Counts, and holds room in the budget for what is in flight."""

    settings: Endpoint
    calls: int = 0
    bought: int = 0
    from_store: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    _usd: float = 0.0
    _used: Usage = NOTHING
    _held: Usage = NOTHING
    _guessed: int = 0
    _answered: int = 0

    def estimate(self, guess: int, room: int) -> Hold:
        """What a call will take, by those so far: its prompt was guessed as well as theirs, its answer is as long as the mean.

        Before there is one, the guess stands, and the answer takes all the room it is given.
        """
        if not self._answered:
            return Hold(guess, Usage(guess, room, estimated=True))
        prompt = round(guess * self._used.prompt / max(self._guessed, 1))
        return Hold(guess, Usage(prompt, min(room, round(self._used.completion / self._answered)), estimated=True))

    def limit(self, hold: Hold) -> str | None:
        """The setting that leaves no room for a call beside those in flight, e.g. `max_usd`; None: there is room."""
        settings, usage = self.settings, hold.usage
        tokens = count_tokens(add(self._used, self._held, usage))
        if settings.max_calls is not None and self.calls >= settings.max_calls:
            return "max_calls"
        if settings.max_tokens is not None and tokens > settings.max_tokens:
            return "max_tokens"
        if settings.max_usd is not None and self._usd + (cost(add(self._held, usage), settings.price) or 0) > settings.max_usd:
            return "max_usd"
        return None

    def send(self, hold: Hold) -> None:
        self.calls += 1
        self._held = add(self._held, hold.usage)

    def receive(self, hold: Hold, usage: Usage | None) -> None:
        """The call is over; `usage` None: it took nothing that is known of."""
        self._held = Usage(self._held.prompt - hold.usage.prompt, self._held.completion - hold.usage.completion)
        if usage is not None:
            self._used = add(self._used, usage)
            self._usd += cost(usage, self.settings.price) or 0
            self._guessed += hold.guess
            self._answered += 1

    def count(self, rows: int, outcome: Outcome, bought: bool) -> None:
        """`rows` rows got one call, bought now or had before."""
        self.bought += bought
        self.from_store += rows - bought
        self.outcomes[outcome] += rows

    def spending(self) -> Spending:
        usd = None if self.settings.price is None else self._usd
        return Spending(self.calls, count_tokens(self._used), usd, self.bought, self.from_store, dict(self.outcomes))


def cost(usage: Usage, price: Price | None) -> float | None:
    """US dollars; None where no price is known."""
    if price is None:
        return None
    cached = price.input if price.cached_input is None else price.cached_input
    return ((usage.prompt - usage.cached) * price.input + usage.cached * cached + usage.completion * price.output) / 1e6


def add(*usages: Usage) -> Usage:
    """The sum; estimated if one of them is."""
    return Usage(
        sum(usage.prompt for usage in usages),
        sum(usage.completion for usage in usages),
        sum(usage.cached for usage in usages),
        sum(usage.reasoning for usage in usages),
        any(usage.estimated for usage in usages),
    )


def total(spents: Iterable[Spent]) -> Spent:
    """What calls took together. They ran side by side, so the latency is the longest."""
    parts = tuple(spents)
    usds = [part.cost_usd for part in parts if part.cost_usd is not None]
    return Spent(
        usage=add(*(part.usage for part in parts)),
        cost_usd=sum(usds) if len(usds) == len(parts) else None,
        latency_s=max(part.latency_s for part in parts),
        attempts=sum(part.attempts for part in parts),
    )


def budget_spent(settings: Endpoint, name: str, limit: str, spending: Spending) -> BudgetSpent:
    """The sentence at the end of a budget."""
    usd = "price unknown" if spending.usd is None else f"${spending.usd:.4f}"
    return BudgetSpent(
        f"endpoints.{name}.{limit} = {getattr(settings, limit):g} leaves no room for another call "
        f"({spending.calls} requests, {spending.tokens} tokens, {usd}); every answer is kept: "
        f"raise endpoints.{name}.{limit} and run again to go on"
    )


def count_tokens(usage: Usage) -> int:
    """Prompt and completion."""
    return usage.prompt + usage.completion
