"""What a server's reply means: a row's outcome, or a fault of the call. `openai` lets most of the odd ones pass.

Sources: the fault tables of the OpenAI, OpenRouter, vLLM and Azure APIs, each tried against a local server.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from math import inf, isfinite, isnan
from time import time
from typing import Any, Literal

from rlaif_dpo.engines.base import FinishReason, Outcome, Usage

Kind = Literal["stop", "rate", "transient", "parameter"]
PARAMETERS = ("top_logprobs", "logprobs", "max_completion_tokens", "max_tokens", "temperature", "top_p", "seed", "system")
"""What can be dropped or renamed; a name that holds another stands before it."""
MISSING = -9999.0
"""OpenAI's log-probability of a token that is not among the likeliest."""

_CONTEXT_CODES = frozenset({"context_length_exceeded", "exceed_context_size_error"})
_CONTEXT = re.compile(r"maximum context length|context (?:size|window|length)|(?:prompt|input) is too long|too many tokens", re.I)
_FILTER_CODES = frozenset({"content_filter", "content_policy_violation", "invalid_prompt", "cyber_policy"})
_FILTER = re.compile(r"content (?:management )?policy|moderation|flagged", re.I)
_QUOTA_CODES = frozenset({"insufficient_quota", "billing_hard_limit_reached"})
_UNSUPPORTED = re.compile(r"not supported|unsupported|not implemented", re.I)
_SYSTEM = re.compile(r"system (?:role|message|prompt|turn)|role[^.]{0,20}system", re.I)


class Fault(Exception):
    """A call that brought no outcome.

    Attributes:
        kind: `stop` ends the run, `rate` cools all workers down, `transient` is tried again, `parameter` is asked differently.
        wait_s: How long the server asks to wait, in seconds.
        parameter: The one the server does not take.
    """

    def __init__(self, kind: Kind, message: str, wait_s: float | None = None, parameter: str | None = None) -> None:
        super().__init__(message)
        self.kind, self.wait_s, self.parameter = kind, wait_s, parameter


@dataclass(frozen=True)
class Reply:
    """What came back. `top` holds the likeliest first tokens with their log-probabilities, None where the server gave none."""

    outcome: Outcome
    text: str = ""
    finish_reason: FinishReason = "stop"
    reasoning: str | None = None
    top: tuple[tuple[str, float], ...] | None = None
    error: str | None = None


def read_reply(response: object, wants_text: bool = True) -> Reply:
    """The outcome of a JSON body that came with HTTP 200. Without `wants_text` log-probabilities are enough.

    Raises:
        Fault: It is no chat completion, holds an error, or has no choice.
    """
    if not isinstance(response, Mapping):
        raise Fault("transient", f"the server sent no chat completion but {' '.join(str(response).split())[:80]!r}")
    if error := response.get("error"):
        return read_error(_status(error), error)
    choice = _first(response.get("choices"))
    message = _of(choice, "message")
    if not isinstance(message, Mapping):
        raise Fault("transient", "the reply has no choices")
    ended = _of(choice, "finish_reason")  # servers have names of their own for it
    if ended == "error":  # OpenRouter: the provider failed after it had begun
        error = _of(choice, "error") or {"message": "the provider failed"}
        return read_error(_status(error), error)
    finish: FinishReason = "length" if ended in ("length", "max_tokens", "model_length") else "stop"
    text, thought = split_thinking(_content(message.get("content")))
    said = (message.get("reasoning_content"), message.get("reasoning"))
    reasoning = next((r for r in said if isinstance(r, str) and r), thought)
    if ended == "content_filter" or _filtered(_of(choice, "content_filter_results")):
        return Reply("filtered", text, finish, reasoning, error="the server's content filter stopped the reply")
    if refusal := message.get("refusal"):
        return Reply("refused", str(refusal), finish, reasoning, error=f"the model refused: {refusal}")
    top = _top(choice)
    if not text and (wants_text or top is None):
        room = "the room for the answer ran out" if finish == "length" else "the model said nothing"
        return Reply("empty", "", finish, reasoning, top, error=f"empty reply: {room}")
    return Reply("ok", text, finish, reasoning, top)


def read_failure(error: Exception) -> Reply:
    """The outcome of an exception of the SDK.

    Raises:
        Fault: As `read_error`; a timeout, a lost connection or a broken body are transient.
    """
    from openai import APIConnectionError, APIStatusError, APITimeoutError

    if isinstance(error, APIStatusError):
        body = error.body if isinstance(error.body, Mapping) else {"message": str(error.body or error.message)}
        return read_error(error.status_code, body, _retry_after(error.response.headers))
    refused = type(error.__cause__).__name__ == "ConnectTimeout"  # so the transport calls a connection refused or lost
    if isinstance(error, APITimeoutError | TimeoutError) and not refused:
        raise Fault("transient", "no reply in time")
    if isinstance(error, APIConnectionError):
        raise Fault("transient", f"no connection ({' '.join(str(error.__cause__ or error).split())[:200]})")
    if isinstance(error, json.JSONDecodeError):
        raise Fault("transient", "the reply is broken JSON")
    raise Fault("transient", f"{type(error).__name__}: {' '.join(str(error).split())[:200]}")


def read_error(status: int, error: Any, wait_s: float | None = None) -> Reply:
    """The outcome of an error body, `{"message", "code", "param", ...}` or a text, with its HTTP status.

    Raises:
        Fault: Wrong key, no credit or no such model (`stop`); too fast (`rate`); a parameter; else a status worth another try.
    """
    fields = error if isinstance(error, Mapping) else {"message": error}
    said = fields.get("message") or _detail(fields.get("detail")) or fields.get("error") or "no message"
    message = " ".join(str(said).split())[:300]
    codes = {str(fields.get("code")), str(fields.get("type"))}
    if codes & _QUOTA_CODES or status == 402:
        raise Fault("stop", f"no credit left ({message}): top the account up")
    if codes & _CONTEXT_CODES or status == 413 or (status in (400, 422, 500) and _CONTEXT.search(message)):
        return Reply("context", error=f"too long: {message}")
    if codes & _FILTER_CODES or (status in (400, 403) and _FILTER.search(message)):
        return Reply("filtered", error=f"refused by the server's content filter: {message}")
    if status in (401, 403):
        raise Fault("stop", f"the server refuses the key ({message}): check `api_key_env`")
    if status == 404:
        raise Fault("stop", f"no such model or path ({message}): check `model` and `base_url`")
    if status in (429, 503, 529):
        raise Fault("rate", message, wait_s)
    parameter = _parameter(fields.get("param"), message)
    if parameter and (status in (400, 422) or (status in (500, 501) and _UNSUPPORTED.search(message))):
        raise Fault("parameter", message, parameter=parameter)
    if status in (408, 409) or status >= 500 or "could not parse the json body" in message.lower():
        raise Fault("transient", f"HTTP {status}: {message}", wait_s)
    return Reply("error", error=f"HTTP {status}: {message}")


def read_usage(response: object) -> Usage | None:
    """The tokens the server counted, or None where it did not."""
    usage = _of(response, "usage")
    prompt, completion = _count(usage, "prompt_tokens"), _count(usage, "completion_tokens")
    if not prompt and not completion:
        return None
    cached = _count(_of(usage, "prompt_tokens_details"), "cached_tokens")
    reasoning = _count(_of(usage, "completion_tokens_details"), "reasoning_tokens")
    return Usage(prompt, completion, cached, reasoning)


def split_thinking(content: str) -> tuple[str, str | None]:
    """The answer, and what stood in `<think>` before it. A thought that was cut off, or begun by the template, counts as one."""
    thought, ended, answer = content.rpartition("</think>")
    if not ended:
        answer, begun, thought = content.partition("<think>")
        if not begun:
            return content.strip(), None
    return answer.partition("<think>")[0].strip(), thought.replace("<think>", "").strip() or None


def _detail(detail: object) -> str:
    """What FastAPI says, without the input it echoes: the words of a prompt must not pass for the name of a parameter."""
    if isinstance(detail, list):
        return "; ".join(f"{e.get('loc')}: {e.get('msg')}" for e in detail if isinstance(e, Mapping))
    return str(detail or "")


def _parameter(named: object, message: str) -> str | None:
    if named in PARAMETERS:
        return str(named)
    if _SYSTEM.search(message):
        return "system"
    return next((name for name in PARAMETERS if re.search(rf"(?<![a-z_]){name}(?![a-z_])", message)), None)


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds: the header has them, or a date, or a sibling has milliseconds."""
    try:
        if milliseconds := headers.get("retry-after-ms"):
            return max(0.0, float(milliseconds) / 1000)
        if not (said := headers.get("retry-after")):
            return None
        if re.fullmatch(r"[\d.]+", said):
            return float(said)
        return max(0.0, parsedate_to_datetime(said).timestamp() - time())
    except (ValueError, TypeError):
        return None


def _status(error: Any) -> int:
    """The HTTP status that an error inside a 200 stands for."""
    code = str(error.get("code")) if isinstance(error, Mapping) else ""
    return int(code) if code.isdigit() else 500


def _of(body: object, name: str) -> Any:
    """The field of a part of the reply; None where that part, or it, is missing or something else."""
    return body.get(name) if isinstance(body, Mapping) else None


def _first(parts: object) -> object:
    return parts[0] if isinstance(parts, list) and parts else None


def _content(content: object) -> str:
    """A message's content as text; some servers send a list of parts."""
    if isinstance(content, list):
        return "".join(str(part.get("text", "")) for part in content if isinstance(part, Mapping))
    return content if isinstance(content, str) else ""


def _filtered(results: object) -> bool:
    return isinstance(results, Mapping) and any(isinstance(r, Mapping) and r.get("filtered") for r in results.values())


def _top(choice: object) -> tuple[tuple[str, float], ...] | None:
    """The likeliest first tokens, the one that was drawn among them; -inf for one whose probability was too small to tell."""
    position = _first(_of(_of(choice, "logprobs"), "content"))
    if position is None:
        return None
    listed = _of(position, "top_logprobs") or []
    entries = [(str(_of(entry, "token")), logprob) for entry in listed if (logprob := _logprob(entry)) is not None]
    drawn = _logprob(position)
    if drawn is not None and (entry := (str(_of(position, "token")), drawn)) not in entries:
        entries.append(entry)
    return tuple(entries)


def _logprob(entry: object) -> float | None:
    value = _of(entry, "logprob")
    if not isinstance(value, int | float) or isnan(value):
        return None
    return float(value) if value > MISSING else -inf


def _count(usage: object, name: str) -> int:
    value = _of(usage, name)
    return int(value) if isinstance(value, int | float) and isfinite(value) and value > 0 else 0
