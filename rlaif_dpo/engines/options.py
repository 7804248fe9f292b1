"""Option log-probabilities in one forward pass, the prefix that prompts share computed once."""

import math
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import permutations
from typing import cast

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from rlaif_dpo.engines.base import OptionRequest, OptionScores
from rlaif_dpo.engines.decode import left_pad, positions_of, prompt_of, why
from rlaif_dpo.errors import UserError
from rlaif_dpo.models.adapters import use_adapter
from rlaif_dpo.models.load import LoadedModel

# How an answer "A" may begin: as it is, in lower case, after a space or a line break, in brackets, in bold, with a full stop.
SPELLINGS = ("{}", " {}", "\n{}", "({}", " ({}", "**{}", "{}.", "{})", "{}:")
WORD_START = ("\u2581{}", "\u0120{}")

Spelling = tuple[int, ...]
"""Token ids that spell an option."""
Spellings = tuple[tuple[Spelling, ...], ...]
"""Of each option."""


@dataclass(frozen=True)
class OptionRow:
    """An option request on its way: its prompt's token ids, and for each option its spellings."""

    id: str
    prompt: tuple[int, ...]
    spellings: Spellings


@lru_cache(maxsize=64)
def option_spellings(tokenizer: PreTrainedTokenizerBase, options: tuple[str, ...]) -> Spellings:
    """For each option, the token sequences that spell it; case counts only where options differ by nothing else.

    Single tokens where the tokenizer has one for every option. Where it splits one of them (many write "10" as "1", "0"), the
    sequences of several tokens count too, for all options alike.
    Raises:
        UserError: an option cannot be written with the tokenizer's vocabulary.
    """
    folded = len({option.casefold() for option in options}) == len(options)
    vocabulary = tokenizer.get_vocab()

    def encode(text: str) -> Spelling:
        return tuple(tokenizer.encode(text, add_special_tokens=False))

    whole = all(min(len(encode(option)), len(encode(f" {option}"))) == 1 for option in options)
    found: dict[str, set[Spelling]] = {}
    for option in options:
        forms = dict.fromkeys((option, option.lower(), option.upper()) if folded else (option,))
        encoded = {encode(s.format(form)) for form in forms for s in SPELLINGS}
        ids: set[Spelling] = {one for one in encoded if len(one) == 1}
        ids |= {(vocabulary[s.format(form)],) for form in forms for s in ("{}", *WORD_START) if s.format(form) in vocabulary}
        if not whole:
            ids |= {encode(s.format(form)) for form in forms for s in ("{}", " {}")}
        found[option] = {one for one in ids if one and tokenizer.unk_token_id not in one}
        if not found[option]:
            raise UserError(f"The option {option!r} cannot be written with the tokens of {tokenizer.name_or_path}: use letters.")
    for option, longer in permutations(options, 2):  # however "1" is spelled, it may go on to "10"
        if not whole and encode(longer)[: len(encode(option))] == encode(option):
            found[longer] |= {one + encode(longer)[len(encode(option)) :] for one in found[option]}
    # what begins with another spelling of the same option is counted there
    return tuple(tuple(sorted(one for one in ids if not _extends(one, ids))) for ids in found.values())


def _extends(spelling: Spelling, others: Iterable[Spelling]) -> bool:
    """Whether `spelling` begins with one of `others` and goes on."""
    return any(len(other) < len(spelling) and spelling[: len(other)] == other for other in others)


def option_rows(
    requests: Sequence[OptionRequest], tokenizer: PreTrainedTokenizerBase, context_length: int, room: int = 0
) -> tuple[list[OptionRow], list[OptionScores]]:
    """The rows of `requests`, and the failures of those that the template does not take or that leave no `room`, in tokens.

    Raises:
        UserError: An option cannot be written with the tokenizer's vocabulary.
    """
    rows: list[OptionRow] = []
    failed: list[OptionScores] = []
    for request in requests:
        spellings = option_spellings(tokenizer, request.options)
        try:
            prompt = prompt_of(request.messages, tokenizer, context_length, room)
        except Exception as error:
            failed.append(OptionScores(request.id, (), 0.0, 0, str(error), why(error)))
            continue
        rows.append(OptionRow(request.id, tuple(prompt), spellings))
    return rows, failed


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
    """The scores of one batch. Where every row shares a prefix with another, the prefixes are computed once.

    A token of a spelling takes a pass of its own only if it is not the first: single-token options take one pass.
    """
    groups = plan_groups(rows)
    rows = [row for group in groups for row in group]
    with use_adapter(loaded, adapter):
        wanted = next_tokens(row.spellings for row in rows).items()
        after = {start: _next_logprobs(loaded, groups, start, tokens) for start, tokens in wanted}
    for i, row in enumerate(rows):
        yield scores_of(row, {start: lines[i] for start, lines in after.items()}, loaded.dtype)


def next_tokens(spellings: Iterable[Spellings]) -> dict[Spelling, list[int]]:
    """The tokens whose log-probabilities are needed, by what they come after: nothing, or the start of a spelling."""
    found: dict[Spelling, set[int]] = {}
    for spelling in {spelling for options in set(spellings) for option in options for spelling in option}:
        for n, token in enumerate(spelling):
            found.setdefault(spelling[:n], set()).add(token)
    return {start: sorted(tokens) for start, tokens in sorted(found.items())}


def scores_of(row: OptionRow, after: Mapping[Spelling, Mapping[int, float]], dtype: torch.dtype) -> OptionScores:
    """The scores of a row from its log-probabilities after each start of a spelling; one that is not finite is an error."""
    logprobs = option_logprobs(row.spellings, after)
    if not all(map(math.isfinite, logprobs)):
        return failed_scores(row, f"the model's logits were not finite (an overflow in {dtype}?)")
    return OptionScores(row.id, tuple(logprobs), sum(map(math.exp, logprobs)), len(row.prompt))


def failed_scores(row: OptionRow, reason: str) -> OptionScores:
    """The scores of a row that failed."""
    return OptionScores(row.id, (), 0.0, len(row.prompt), reason)


def option_logprobs(spellings: Spellings, after: Mapping[Spelling, Mapping[int, float]]) -> list[float]:
    """Log-probabilities of the options: what begins as one option and goes on to another is the other alone.

    P("1") = p(1) (1 - p(0 | 1)) and P("10") = p(1) p(0 | 1), where "10" is the tokens "1", "0". `after` has the log-probabilities
    of the tokens that follow each start.
    """
    if len(after) == 1:
        return [_log_sum([after[()][token] for (token,) in option]) for option in spellings]
    every = {spelling for option in spellings for spelling in option}

    def whole(spelling: Spelling) -> float:
        return sum(after[spelling[:n]][token] for n, token in enumerate(spelling))

    def alone(spelling: Spelling) -> float:
        longer = [other for other in every if _extends(other, [spelling])]
        nearest = [other for other in longer if not _extends(other, longer)]
        if not nearest:
            return whole(spelling)
        goes_on = sum(math.exp(whole(other) - whole(spelling)) for other in nearest)
        return whole(spelling) + math.log(max(1 - goes_on, sys.float_info.min))

    return [_log_sum([alone(spelling) for spelling in option]) for option in spellings]


def _log_sum(logprobs: Sequence[float]) -> float:
    """log of the sum of the probabilities."""
    most = max(logprobs)
    return most + math.log(math.fsum(math.exp(logprob - most) for logprob in logprobs)) if math.isfinite(most) else most


def _next_logprobs(
    loaded: LoadedModel, groups: Sequence[Sequence[OptionRow]], start: Spelling, tokens: Sequence[int]
) -> list[dict[int, float]]:
    """For each row, the log-probabilities of `tokens` after its prompt and `start`, computed in float64."""
    begun = [[OptionRow(row.id, row.prompt + start, row.spellings) for row in group] for group in groups]
    if all(len(group) > 1 for group in groups):
        logits = _logits_after_prefix(loaded, begun)
    else:
        logits = _logits(loaded, [row for group in begun for row in group])
    lines = torch.log_softmax(logits.double(), dim=-1)[:, tokens].tolist()
    return [dict(zip(tokens, line, strict=True)) for line in lines]


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
