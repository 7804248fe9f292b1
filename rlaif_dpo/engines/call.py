"""One call to a model, as the judgment store keeps it."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any

from rlaif_dpo.engines.base import Outcome, Spent, Usage
from rlaif_dpo.messages import Message
from rlaif_dpo.seeding import content_hash

COLUMNS = (
    "key", "owner", "base_url", "model", "prompt", "parameters", "sample", "outcome", "text", "reasoning", "option_logprobs",
    "mass", "finish_reason", "error", "prompt_tokens", "completion_tokens", "cached_tokens", "reasoning_tokens", "estimated",
    "cost_usd", "latency_s", "attempts", "created_at",
)  # fmt: skip


def now() -> str:
    """ISO 8601, UTC: the order of the strings is the order of the times."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


@dataclass(frozen=True)
class Call:
    """One answer to one prompt, as it came. `text` is the raw reply; `owner` the id of the request that bought it."""

    key: str
    owner: str
    base_url: str
    model: str
    messages: tuple[Message, ...]
    parameters: Mapping[str, Any]
    sample: int
    outcome: Outcome
    text: str
    spent: Spent
    reasoning: str | None = None
    option_logprobs: tuple[float, ...] | None = None
    mass: float | None = None
    finish_reason: str | None = None
    error: str | None = None
    created_at: str = field(default_factory=now)

    def as_row(self) -> dict[str, Any]:
        """The call as a JSON row."""
        return asdict(self)


def call_key(messages: Sequence[Message], base_url: str, model: str, parameters: Mapping[str, Any], sample: int) -> str:
    """What a call is known by: all that its answer depends on, and nothing else. 32 hex digits."""
    parts = [[[message["role"], message["content"]] for message in messages], base_url, model, dict(parameters), sample]
    return content_hash(json.dumps(parts, sort_keys=True), length=32)


def to_cells(call: Call) -> tuple[tuple[Any, ...], str]:
    """The cells of `COLUMNS`, and the messages, which are kept once for all calls that share them under the cell `prompt`."""
    messages = json.dumps(call.messages)
    spent, usage = call.spent, call.spent.usage
    cells = (
        call.key, call.owner, call.base_url, call.model, content_hash(messages, length=32),
        json.dumps(dict(call.parameters), sort_keys=True), call.sample, call.outcome, call.text, call.reasoning,
        None if call.option_logprobs is None else json.dumps(call.option_logprobs), call.mass, call.finish_reason, call.error,
        usage.prompt, usage.completion, usage.cached, usage.reasoning, usage.estimated,
        spent.cost_usd, spent.latency_s, spent.attempts, call.created_at,
    )  # fmt: skip
    return cells, messages


def from_cells(row: Sequence[Any]) -> Call:
    """The call of a row of `COLUMNS` and, last, the messages."""
    cells = dict(zip((*COLUMNS, "messages"), row, strict=True))
    usage = Usage(
        cells.pop("prompt_tokens"), cells.pop("completion_tokens"), cells.pop("cached_tokens"), cells.pop("reasoning_tokens"),
        bool(cells.pop("estimated")),
    )  # fmt: skip
    spent = Spent(usage, cells.pop("cost_usd"), cells.pop("latency_s"), cells.pop("attempts"))
    logprobs = cells.pop("option_logprobs")
    del cells["prompt"]
    return Call(
        messages=tuple(json.loads(cells.pop("messages"))),
        parameters=json.loads(cells.pop("parameters")),
        option_logprobs=None if logprobs is None else tuple(json.loads(logprobs)),
        spent=spent,
        **cells,
    )
