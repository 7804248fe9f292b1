"""People's preferences as preference rows, and their mix with a judge's."""

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from rlaif_dpo.errors import UserError, did_you_mean
from rlaif_dpo.files import Row
from rlaif_dpo.judges.base import Comparison
from rlaif_dpo.messages import SPEAKERS, Message, assistant
from rlaif_dpo.prompts.clean import clean_text, is_transcript, parse_transcript
from rlaif_dpo.prompts.sources import read_rows
from rlaif_dpo.seeding import content_hash, derive_rng

UNREADABLE = "not a prompt with two answers"
NOT_SHARED = "answers to different conversations"
SAME = "twice the same answer"
DUPLICATE = "duplicate"


def read_comparisons(source: str, split: str = "train") -> tuple[list[Comparison], Counter[str]]:
    """The pairs of a preference set, the chosen answer first, and how many rows were dropped for which reason.

    A row has `chosen` and `rejected`, as texts, messages or whole conversations (hh-rlhf), and `prompt` unless both share it.
    Raises:
        UserError: No such source, no such columns, or no row that can be used.
    """
    comparisons: dict[str, Comparison] = {}
    dropped: Counter[str] = Counter()
    for row in read_rows(source, split):
        for column in ("chosen", "rejected"):
            if row is not None and column not in row:
                raise UserError(f'{source} has no column "{column}".{did_you_mean(column, row)}')
        found = UNREADABLE if row is None else _comparison(row)
        if isinstance(found, Comparison) and found.id in comparisons:
            found = DUPLICATE
        if isinstance(found, str):
            dropped[found] += 1
        else:
            comparisons[found.id] = found
    if not comparisons:
        reasons = ", ".join(f"{count} {reason}" for reason, count in dropped.most_common()) or "it has no rows"
        raise UserError(f"No usable pair in {source} ({reasons}); it needs `prompt`, `chosen` and `rejected`")
    return list(comparisons.values()), dropped


def human_preferences(
    source: str, count_tokens: Callable[[str], int], reliability: float = 1.0, split: str = "train"
) -> tuple[list[Row], Counter[str]]:
    """A set of human preferences as rows like those of `preference_row`, and its dropped rows by reason.

    Args:
        source: A file or a Hub dataset, see `read_comparisons`.
        count_tokens: Of an answer, for `lengths`.
        reliability: The rows' p, in (.5, 1]: how often two people, or a person twice, agree on such a pair.
        split: Of a Hub dataset.

    Raises:
        UserError: As `read_comparisons`, or a reliability outside its range.
    """
    if not 0.5 < reliability <= 1:
        raise UserError(f"reliability is {reliability:g}; it must be above .5 (a coin) and at most 1 (never wrong)")
    comparisons, dropped = read_comparisons(source, split)
    return [_preference(comparison, count_tokens, reliability) for comparison in comparisons], dropped


def mix(rows_by_source: Mapping[str, Sequence[Row]], weights: Mapping[str, float], seed: int) -> list[Row]:
    """As many rows as there can be whose shares by source are as `weights`, none twice; drawn and shuffled by `seed`.

    Of 300 and 100 rows at weights 1 and 1, 100 and 100 are taken. A source of weight 0 is left out.
    Raises:
        UserError: Weights without a source, sources without a weight, a weight below 0, or all of them 0.
    """
    if rows_by_source.keys() != weights.keys() or min(weights.values(), default=-1) < 0 or not any(weights.values()):
        raise UserError(f"The mix needs a weight for each of {', '.join(sorted(rows_by_source))}, one of them above 0")
    total = min(len(rows_by_source[name]) / weight for name, weight in weights.items() if weight)
    mixed: list[Row] = []
    for name in sorted(weights):
        rows = sorted(rows_by_source[name], key=lambda row: str(row["id"]))
        mixed += derive_rng(seed, "mix", name).sample(rows, int(total * weights[name] + 1e-9))
    derive_rng(seed, "mix").shuffle(mixed)
    return mixed


def _comparison(row: Row) -> Comparison | str:
    """The pair of a row, or why it is none."""
    chosen, rejected = (_turns(row[column], "assistant") for column in ("chosen", "rejected"))
    prompt = [] if row.get("prompt") is None else _turns(row["prompt"], "user")
    if not chosen or not rejected or prompt is None:
        return UNREADABLE
    # an answer that is a whole conversation brings its prompt along
    before, after = ([*([] if len(turns) > 1 else prompt), *turns[:-1]] for turns in (chosen, rejected))
    replies = chosen[-1], rejected[-1]
    if before != after:
        return NOT_SHARED
    if not before or before[-1]["role"] != "user" or any(turn["role"] != "assistant" or not turn["content"] for turn in replies):
        return UNREADABLE
    first, second = (reply["content"] for reply in replies)
    if first == second:
        return SAME
    id = str(row["id"]) if "id" in row else content_hash(json.dumps([before, first, second]))
    return Comparison(id, tuple(before), first, second, ())


def _turns(cell: Any, role: Literal["user", "assistant"]) -> list[Message] | None:
    """The turns of a cell: a transcript, messages, or one text of `role`; None if it is none of these."""
    if isinstance(cell, str):
        return parse_transcript(cell) if is_transcript(cell) else [{"role": role, "content": clean_text(cell)}]
    if not isinstance(cell, list) or not all(isinstance(turn, dict) for turn in cell):
        return None
    if not all(turn.get("role") in SPEAKERS and isinstance(turn.get("content"), str) for turn in cell):
        return None
    return [{"role": turn["role"], "content": clean_text(turn["content"])} for turn in cell]


def _preference(comparison: Comparison, count_tokens: Callable[[str], int], p: float) -> Row:
    conversation = [(message["role"], message["content"]) for message in comparison.messages]
    return {
        "id": comparison.id,
        "prompt": list(comparison.messages),
        "chosen": [assistant(comparison.first)],
        "rejected": [assistant(comparison.second)],
        "p": p,
        "prompt_id": content_hash(json.dumps(conversation)),  # as `prompts` has it: leaks show
        "principle_ids": [],
        "judge": "human",
        "source": "human",
        "candidates": [],
        "lengths": [count_tokens(comparison.first), count_tokens(comparison.second)],
    }
