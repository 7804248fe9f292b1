"""The decoding loop: a batch of prompts, one forward pass a step, rows leave as they finish."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from rlaif_dpo.engines.base import Completion, FinishReason, Outcome, Request
from rlaif_dpo.engines.sampling import draw, uniforms
from rlaif_dpo.messages import Message
from rlaif_dpo.models.adapters import use_adapter
from rlaif_dpo.models.chat import render
from rlaif_dpo.models.load import LoadedModel


class TooLong(Exception):
    """The prompt and its answer do not fit into the context."""


@dataclass
class DecodeRow:
    """A request on its way: its prompt's token ids, the most new tokens it may have, those it has."""

    request: Request
    prompt: list[int]
    room: int
    tokens: list[int] = field(default_factory=list)
    finish_reason: FinishReason | None = None

    @property
    def id(self) -> str:
        return self.request.id


def decode_rows(
    requests: Sequence[Request], tokenizer: PreTrainedTokenizerBase, context_length: int
) -> tuple[list[DecodeRow], list[Completion]]:
    """The rows of `requests`, and the failures of those that the template does not take or that leave no room for an answer."""
    rows: list[DecodeRow] = []
    failed: list[Completion] = []
    for request in requests:
        try:
            prompt = prompt_of(request.messages, tokenizer, context_length, room=1)
        except Exception as error:
            failed.append(failure(request, str(error), outcome=why(error)))
            continue
        rows.append(DecodeRow(request, prompt, min(request.sampling.max_new_tokens, context_length - len(prompt))))
    return rows, failed


def prompt_of(messages: Sequence[Message], tokenizer: PreTrainedTokenizerBase, context_length: int, room: int) -> list[int]:
    """Token ids of the rendered conversation.

    Raises:
        TooLong: The context has no `room` left for so many tokens.
    """
    prompt = render(tokenizer, messages)
    if len(prompt) + room > context_length:
        raise TooLong(f"prompt of {len(prompt)} tokens exceeds the context of {context_length}")
    return prompt


def why(error: Exception) -> Outcome:
    """The outcome of a row that could not be made."""
    return "context" if isinstance(error, TooLong) else "error"


def failure(request: Request, reason: str, prompt_tokens: int = 0, outcome: Outcome = "error") -> Completion:
    """The completion of a request that failed."""
    return Completion(request.id, "", prompt_tokens, 0, "error", reason, outcome)


def completion_of(row: DecodeRow, tokenizer: PreTrainedTokenizerBase, dtype: torch.dtype) -> Completion:
    """The completion of a row that is finished; the token that ended it is counted, and no part of the text."""
    if row.finish_reason == "error":
        reason = f"the model's logits were not finite at token {len(row.tokens)} (an overflow in {dtype}?)"
        return failure(row.request, reason, len(row.prompt))
    tokens = row.tokens[:-1] if row.finish_reason == "stop" else row.tokens
    text = str(tokenizer.decode(tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False))
    ids, reason = tuple(row.tokens), row.finish_reason or "length"
    return Completion(row.id, text, len(row.prompt), len(ids), reason, token_ids=ids)


def left_pad(sequences: Sequence[Sequence[int]], pad: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Token ids and attention mask, both [rows, longest], with the padding on the left."""
    width = max(map(len, sequences))
    ids = torch.tensor([[pad] * (width - len(s)) + list(s) for s in sequences], device=device)
    mask = torch.tensor([[0] * (width - len(s)) + [1] * len(s) for s in sequences], device=device)
    return ids, mask


def positions_of(mask: Tensor) -> Tensor:
    """Position ids [rows, width] that count only what the mask keeps, so padding shifts nothing."""
    return (mask.cumsum(dim=-1) - 1).clamp(min=0)


def decode(loaded: LoadedModel, adapter: str | None, rows: Sequence[DecodeRow], stop: frozenset[int]) -> Iterator[Completion]:
    """Completions of `rows`, in finishing order.

    They come in waves: when half of the rows in the batch are done, they are yielded and their part of the cache is dropped.
    Between waves the model is as it was before, so the caller may use it.
    """
    batch = _Batch(loaded, [DecodeRow(row.request, row.prompt, row.room) for row in rows], stop)
    while batch.rows:
        with use_adapter(loaded, adapter):
            finished = batch.advance()
        yield from (completion_of(row, loaded.tokenizer, loaded.dtype) for row in finished)


class _Batch:
    """The rows in work and their tensors: all rows are at the same step."""

    def __init__(self, loaded: LoadedModel, rows: list[DecodeRow], stop: frozenset[int]) -> None:
        self.rows = rows
        self._loaded, self._stop, self._step = loaded, stop, 0
        device = loaded.device
        self._input, self._mask = left_pad([row.prompt for row in rows], loaded.tokenizer.pad_token_id, device)
        self._positions = positions_of(self._mask)
        self._cache = None
        sampling = [row.request.sampling for row in rows]
        self._temperature = torch.tensor([s.temperature for s in sampling], dtype=torch.float64, device=device)
        self._top_p = torch.tensor([s.top_p for s in sampling], dtype=torch.float64, device=device)
        steps = max(row.room for row in rows)
        self._uniforms = torch.stack([uniforms(row.request.seed, steps) for row in rows]).to(device)

    def advance(self) -> list[DecodeRow]:
        """Step until at least half of the rows are done; take those out and return them."""
        while 2 * sum(row.finish_reason is not None for row in self.rows) < len(self.rows):
            self._advance_one_step()
        finished = [row for row in self.rows if row.finish_reason is not None]
        self._keep([i for i, row in enumerate(self.rows) if row.finish_reason is None])
        return finished

    def _advance_one_step(self) -> None:
        output = self._loaded.model(
            input_ids=self._input,
            attention_mask=self._mask,
            position_ids=self._positions,
            past_key_values=self._cache,
            use_cache=True,
            logits_to_keep=1,
        )
        self._cache = output.past_key_values
        logits = output.logits[:, -1]
        broken = (~torch.isfinite(logits.amax(dim=-1))).tolist()
        tokens = draw(logits, self._temperature, self._top_p, self._uniforms[:, self._step])
        for row, token, is_broken in zip(self.rows, tokens.tolist(), broken, strict=True):
            if row.finish_reason is not None:
                continue
            row.tokens.append(token)
            if is_broken:
                row.finish_reason = "error"
            elif token in self._stop:
                row.finish_reason = "stop"
            elif len(row.tokens) == row.room:
                row.finish_reason = "length"
        self._step += 1
        self._input = tokens.unsqueeze(-1)
        self._mask = torch.cat([self._mask, torch.ones_like(self._input)], dim=-1)
        self._positions = self._positions[:, -1:] + 1

    def _keep(self, indices: list[int]) -> None:
        self.rows = [self.rows[i] for i in indices]
        if not indices:
            self._cache = None
            return
        kept = torch.tensor(indices, device=self._loaded.device)
        if self._cache is not None:
            self._cache.batch_select_indices(kept)
        self._input, self._mask, self._positions = self._input[kept], self._mask[kept], self._positions[kept]
        self._temperature, self._top_p, self._uniforms = self._temperature[kept], self._top_p[kept], self._uniforms[kept]
