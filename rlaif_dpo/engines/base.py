"""The Engine protocol: text and option scores out of a model."""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from rlaif_dpo.messages import Message

FinishReason = Literal["stop", "length", "error"]


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
    """One answer. With `error` set, `text` is empty and `finish_reason` is "error"."""

    id: str
    text: str
    prompt_tokens: int
    completion_tokens: int
    finish_reason: FinishReason
    error: str | None = None


@dataclass(frozen=True)
class OptionRequest:
    """Which of `options` comes first in the assistant's turn? Each option may have several token spellings; they are summed."""

    id: str
    messages: tuple[Message, ...]
    options: tuple[str, ...]


@dataclass(frozen=True)
class OptionScores:
    """Log-probabilities of the options, not renormalised; `mass` is the sum of their probabilities."""

    id: str
    logprobs: tuple[float, ...]
    mass: float
    prompt_tokens: int
    error: str | None = None


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
        """Option log-probabilities, one forward pass each, in finishing order."""
        ...
