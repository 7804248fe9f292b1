"""The Engine protocol: text and option scores out of a model."""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from rlaif_dpo.messages import Message

FinishReason = Literal["stop", "length", "error"]
Outcome = Literal["ok", "refused", "filtered", "context", "empty", "unparsed", "error"]
"""How a row ended. After "refused", "filtered" (by a content filter) and "context" (too long) asking again changes nothing."""
FINAL: frozenset[Outcome] = frozenset({"ok", "refused", "filtered", "context"})
NO_VLLM = "`model.engine: vllm` needs vLLM: pip install 'rlaif-dpo[vllm]'"
Source = Literal["logprob", "vote", "hard"]
"""Where option scores come from: the model's own log-probabilities, several sampled verdicts, or one."""


@dataclass(frozen=True)
class Usage:
    """Tokens of a call. `cached` are part of `prompt`, `reasoning` of `completion`; `estimated` when the server said nothing."""

    prompt: int
    completion: int
    cached: int = 0
    reasoning: int = 0
    estimated: bool = False


@dataclass(frozen=True)
class Spent:
    """What a row took from an endpoint. `cost_usd` is None when no price is known; `attempts` counts every request sent."""

    usage: Usage
    cost_usd: float | None
    latency_s: float
    attempts: int


@dataclass(frozen=True)
class Sampling:
    """How to draw a completion. `temperature` 0 is greedy; `top_p` 1 keeps the whole distribution."""

    temperature: float = 1.0
    top_p: float = 1.0
    max_new_tokens: int = 256


@dataclass(frozen=True)
class Request:
    """One completion wanted. Its text is a function of (model, messages, sampling, seed), not of its batch."""

    id: str
    messages: tuple[Message, ...]
    sampling: Sampling
    seed: int


@dataclass(frozen=True)
class Completion:
    """One answer. With `error` set, `text` is empty, `finish_reason` is "error" and `outcome` says what kind of failure it was.

    `reasoning` is what a reasoning model thought, where the server shows it; it is never part of `text`. `token_ids` are the
    sampled tokens, the one that ended the answer included, of a model in this process: a text may be spelt by others, too.
    """

    id: str
    text: str
    prompt_tokens: int
    completion_tokens: int
    finish_reason: FinishReason
    error: str | None = None
    outcome: Outcome = "ok"
    reasoning: str | None = None
    spent: Spent | None = None
    token_ids: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        _settle(self)


@dataclass(frozen=True)
class OptionRequest:
    """Which of `options` comes first in the assistant's turn? Each option may have several token spellings; they are summed.

    `seed` matters only where the scores are votes.
    """

    id: str
    messages: tuple[Message, ...]
    options: tuple[str, ...]
    seed: int = 0


@dataclass(frozen=True)
class OptionScores:
    """Log-probabilities of the options, not renormalised; `mass` is the sum of their probabilities.

    With votes they are the logs of the Jeffreys estimates (k + .5) / (n + 1) and `mass` is the share of samples that named
    an option: never a silent 1.
    """

    id: str
    logprobs: tuple[float, ...]
    mass: float
    prompt_tokens: int
    error: str | None = None
    outcome: Outcome = "ok"
    source: Source = "logprob"
    spent: Spent | None = None

    def __post_init__(self) -> None:
        _settle(self)


def _settle(row: Completion | OptionScores) -> None:
    """A failure that is no other outcome is an "error"."""
    if row.error is not None and row.outcome == "ok":
        object.__setattr__(row, "outcome", "error")


class Engine(Protocol):
    """A model that answers.

    Batches are planned over all `requests`; rows whose id is in `skip` are already had. A batch that is wholly in `skip`
    is not run; one that is partly in it is run whole (its shape, so its arithmetic, stays the same) and only the missing rows
    come out.
    A row that fails comes out with `error` set; it never ends the batch.
    """

    @property
    def name(self) -> str:
        """Model and adapter, for the row's provenance, e.g. `sandbox+20-sft`."""
        ...

    @property
    def template_hash(self) -> str:
        """Content hash of the chat template."""
        ...

    @property
    def context_length(self) -> int:
        """The most tokens prompt and completion may have together."""
        ...

    def count_tokens(self, messages: Sequence[Message]) -> int:
        """Tokens of the rendered conversation with the generation prompt."""
        ...

    def generate(self, requests: Sequence[Request], skip: Collection[str] = ()) -> Iterator[Completion]:
        """Completions in finishing order."""
        ...

    def score_options(self, requests: Sequence[OptionRequest], skip: Collection[str] = ()) -> Iterator[OptionScores]:
        """Option log-probabilities in finishing order: one forward pass each where every option is one token."""
        ...
