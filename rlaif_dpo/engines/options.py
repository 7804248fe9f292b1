"""Option log-probabilities in one forward pass, the prefix that prompts share computed once."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import cast

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from rlaif_dpo.engines.base import OptionScores
from rlaif_dpo.engines.decode import left_pad, positions_of
from rlaif_dpo.errors import UserError
from rlaif_dpo.models.adapters import use_adapter
from rlaif_dpo.models.load import LoadedModel

# How an answer "A" may begin: as it is, in lower case, after a space or a line break, in brackets, in bold, with a full stop.
SPELLINGS = ("{}", " {}", "\n{}", "({}", " ({}", "**{}", "{}.", "{})", "{}:")
WORD_START = ("\u2581{}", "\u0120{}")


@dataclass(frozen=True)
class OptionRow:
    """An option request on its way: its prompt's token ids, and for each option the token ids that begin it."""

    id: str
    prompt: tuple[int, ...]
    variants: tuple[tuple[int, ...], ...]


@lru_cache(maxsize=64)
def option_variants(tokenizer: PreTrainedTokenizerBase, options: tuple[str, ...]) -> tuple[tuple[int, ...], ...]:
    """For each option, the ids of the single tokens that spell it; case counts only where options differ by nothing else.

    Raises:
        UserError: an option has no single-token spelling (then a prefix of it would be scored in its place).
    """
    folded = len({option.casefold() for option in options}) == len(options)
    vocabulary = tokenizer.get_vocab()
    found = []
    for option in options:
        forms = dict.fromkeys((option, option.lower(), option.upper()) if folded else (option,))
        encoded = [tokenizer.encode(s.format(form), add_special_tokens=False) for form in forms for s in SPELLINGS]
        ids = {ids[0] for ids in encoded if len(ids) == 1 and ids[0] != tokenizer.unk_token_id}
        ids |= {vocabulary[s.format(form)] for form in forms for s in ("{}", *WORD_START) if s.format(form) in vocabulary}
        if not ids:
            raise UserError(f"The option {option!r} is no single token of {tokenizer.name_or_path}: use letters as options.")
        found.append(tuple(sorted(ids)))
    return tuple(found)


def plan_groups(rows: Sequence[OptionRow]) -> list[list[OptionRow]]:
    """Groups of rows that share a prefix of at least half their prompt; the same for any order of `rows`."""
    groups: list[list[OptionRow]] = []
    prefix = 0
    for row in sorted(rows, key=lambda row: (row.prompt, row.id)):
        if groups:
            group = groups[-1]
            shared = min(prefix, _shared_length(group[0], row))
            # Joining must not cost the group more of its prefix than it saves on this row.
            if 2 * shared >= len(row.prompt) and len(group) * shared >= (len(group) - 1) * prefix:
                group.append(row)
                prefix = shared
                continue
        groups.append([row])
        prefix = len(row.prompt)
    return groups


def score(loaded: LoadedModel, adapter: str | None, rows: Sequence[OptionRow]) -> Iterator[OptionScores]:
    """The scores of one batch. Where every row shares a prefix with another, the prefixes are computed once."""
    groups = plan_groups(rows)
    rows = [row for group in groups for row in group]
    with use_adapter(loaded, adapter):
        logits = _logits_after_prefix(loaded, groups) if all(len(group) > 1 for group in groups) else _logits(loaded, rows)
        logprobs = torch.log_softmax(logits.double(), dim=-1)
        table = [
            [float(torch.logsumexp(line[list(ids)], dim=0)) for ids in row.variants]
            for row, line in zip(rows, logprobs.cpu(), strict=True)
        ]
    for row, line in zip(rows, table, strict=True):
        if not all(map(math.isfinite, line)):
            raise FloatingPointError(f"the model's logits were not finite (an overflow in {loaded.dtype}?)")
        yield OptionScores(row.id, tuple(line), sum(map(math.exp, line)), len(row.prompt))


def _logits(loaded: LoadedModel, rows: Sequence[OptionRow]) -> Tensor:
    """Logits [rows, vocabulary] after each prompt, in one pass."""
    ids, mask = left_pad([row.prompt for row in rows], loaded.tokenizer.pad_token_id, loaded.device)
    output = loaded.model(input_ids=ids, attention_mask=mask, position_ids=positions_of(mask), use_cache=False, logits_to_keep=1)
    return cast(Tensor, output.logits[:, -1])


def _logits_after_prefix(loaded: LoadedModel, groups: Sequence[Sequence[OptionRow]]) -> Tensor:
    """The same in two passes: the groups' prefixes [groups, P], then the rest of each row [rows, S] on copies of their cache."""
    pad = loaded.tokenizer.pad_token_id
    # Rows are sorted, so what the first and the last have in common all have; at least one token is left for the second pass.
    shared = [min(_shared_length(group[0], group[-1]), *(len(row.prompt) - 1 for row in group)) for group in groups]
    ids, mask = left_pad([group[0].prompt[:n] for group, n in zip(groups, shared, strict=True)], pad, loaded.device)
    prefixes = loaded.model(input_ids=ids, attention_mask=mask, position_ids=positions_of(mask), use_cache=True, logits_to_keep=1)
    owner = torch.tensor([i for i, group in enumerate(groups) for _ in group], device=loaded.device)
    prefixes.past_key_values.batch_select_indices(owner)
    rests = [row.prompt[n:] for group, n in zip(groups, shared, strict=True) for row in group]
    rest_ids, rest_mask = left_pad(rests, pad, loaded.device)
    whole_mask = torch.cat([mask[owner], rest_mask], dim=-1)
    output = loaded.model(
        input_ids=rest_ids,
        attention_mask=whole_mask,
        position_ids=positions_of(whole_mask)[:, -rest_ids.shape[1] :],
        past_key_values=prefixes.past_key_values,
        use_cache=True,
        logits_to_keep=1,
    )
    return cast(Tensor, output.logits[:, -1])


def _shared_length(first: OptionRow, second: OptionRow) -> int:
    """How many tokens two prompts have in common at their start."""
    pairs = enumerate(zip(first.prompt, second.prompt, strict=False))
    return next((i for i, (a, b) in pairs if a != b), min(len(first.prompt), len(second.prompt)))
