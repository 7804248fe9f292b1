"""The Judge protocol: who prefers what, as a probability."""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, Protocol

from rlaif_dpo.messages import Message


@dataclass(frozen=True)
class Criterion:
    """A principle as a judge sees it: its id, the sentence that asks for the comparison, its weight in the pool."""

    principle_id: str
    compare: str
    weight: float = 1.0


@dataclass(frozen=True)
class Comparison:
    """Two replies to one conversation, to be compared under each of `criteria`."""

    id: str
    messages: tuple[Message, ...]
    first: str
    second: str
    criteria: tuple[Criterion, ...]


@dataclass(frozen=True)
class Verdict:
    """What the judge said under one principle, both orders.

    `logprobs_ab` are those of (first, second) with the first shown as A; `logprobs_ba` those of (first, second) with the first
    shown as B.
    `position_logit` is half the difference of the two logits: the pull of standing first. `p` is None when it could not be had.
    """

    principle_id: str
    weight: float
    p: float | None
    logprobs_ab: tuple[float, float] | None
    logprobs_ba: tuple[float, float] | None
    mass_ab: float
    mass_ba: float
    position_logit: float | None


@dataclass(frozen=True)
class Judgment:
    """P(first is better), pooled over the criteria by weight; None when it could not be had, never a default."""

    id: str
    p: float | None
    verdicts: tuple[Verdict, ...]
    judge: str
    source: Literal["logprob", "vote", "hard"]
    tokens: int
    rationale: str | None = None
    cost_usd: float = 0.0
    error: str | None = None

    def as_row(self) -> dict[str, Any]:
        """The judgment as a JSON row."""
        return asdict(self)


class Judge(Protocol):
    """Compares pairs. Yields judgments as they finish; `skip` as in `Engine`."""

    @property
    def name(self) -> str:
        """The judge's id, for provenance."""
        ...

    def compare(self, comparisons: Sequence[Comparison], skip: Collection[str] = ()) -> Iterator[Judgment]:
        """One judgment for each comparison, in finishing order."""
        ...
