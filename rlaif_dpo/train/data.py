"""Rows to token ids, with a census of what cannot be trained on, taken before the first step.

The ids come from `models.chat.render`, which the engines use too, so what is trained is what is met at inference. Nothing is ever
cut: a cut answer has lost its end, and a model trained on it does not learn to stop.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import TemplateError

from rlaif_dpo.errors import UserError
from rlaif_dpo.files import Row, read_jsonl, write_json
from rlaif_dpo.models.chat import render, stop_ids
from rlaif_dpo.models.load import LoadedModel
from rlaif_dpo.seeding import derive_seed
from rlaif_dpo.train.processes import is_main

TOO_LONG = "longer than max_length"
REFUSED = "not taken by the chat template"
NOT_A_PREFIX = "prompt changed by its answer"
NO_END = "answer without an end"
HELD_OUT = 10


@dataclass(frozen=True)
class Example:
    """One row as tokens: a prompt and its completions (one for SFT; chosen, rejected for DPO), each up to the end of the turn."""

    row: Row
    prompt: list[int]
    completions: tuple[list[int], ...]

    @property
    def length(self) -> int:
        """Tokens of the prompt and the longest completion."""
        return len(self.prompt) + max(map(len, self.completions))


@dataclass(frozen=True)
class Census:
    """What of a set of rows can be trained on.

    Attributes:
        examples: The rows that can, ordered by id: the order of a file does not matter.
        dropped: The ids of the others by reason.
        max_length: The limit in tokens.
        lengths: Tokens of every row that has some, sorted.
    """

    examples: list[Example]
    dropped: dict[str, list[str]]
    max_length: int
    lengths: list[int]

    @property
    def funnel(self) -> dict[str, int]:
        """Rows in, dropped by reason, kept."""
        dropped = {f"dropped: {reason}": len(ids) for reason, ids in self.dropped.items()}
        return {"rows": len(self.examples) + sum(dropped.values())} | dropped | {"kept": len(self.examples)}

    def summary(self) -> dict[str, Any]:
        """What `census.json` says."""
        tokens = {name: self.lengths[int(share * (len(self.lengths) - 1))] for name, share in QUANTILES} if self.lengths else {}
        return {**self.funnel, "max_length": self.max_length, "tokens": tokens, "dropped_ids": self.dropped}


QUANTILES = (("shortest", 0.0), ("median", 0.5), ("p95", 0.95), ("longest", 1.0))


def take_census(rows: Iterable[Row], completions: Sequence[str], loaded: LoadedModel, max_length: int) -> Census:
    """Tokenise `rows` and sort out those that cannot be trained on.

    Args:
        rows: With `id`, `prompt` (messages) and the columns of `completions` (messages).
        completions: The completion columns: `("completion",)`, or `("chosen", "rejected")`.
        loaded: Whose tokenizer and chat template are used.
        max_length: The most tokens of a prompt with its completion; the model's context if that is shorter.
    """
    limit = min(max_length, loaded.context_length)
    stops = stop_ids(loaded.tokenizer, loaded.model.generation_config.eos_token_id)
    examples: list[Example] = []
    dropped: dict[str, list[str]] = {}
    lengths: list[int] = []
    for row in sorted(rows, key=lambda row: str(row["id"])):
        made = _example(row, completions, lambda *args: render(loaded.tokenizer, *args), stops)
        if isinstance(made, Example):
            lengths.append(made.length)
            if made.length <= limit:
                examples.append(made)
                continue
            made = TOO_LONG
        dropped.setdefault(made, []).append(str(row["id"]))
    return Census(examples, dropped, limit, sorted(lengths))


@dataclass(frozen=True)
class Preferences:
    """Pairs to learn from, those of a tenth of the prompts held out for the verdict, and the funnel."""

    train: list[Example]
    held_out: list[Example]
    funnel: dict[str, int]

    @property
    def rows(self) -> list[Row]:
        """Of all of them, ordered by id."""
        return [e.row for e in sorted(self.train + self.held_out, key=lambda e: str(e.row["id"]))]


def read_preferences(rows_path: Path, loaded: LoadedModel, max_length: int, folder: Path) -> Preferences:
    """Rows of `id`, `prompt`, `chosen`, `rejected` (message lists) and `p` = P(chosen is better); writes `folder/census.json`.

    Raises:
        UserError: No row can be trained on.
    """
    census = take_census(read_jsonl(rows_path), ("chosen", "rejected"), loaded, max_length)
    train, held_out = hold_out(census.examples)
    funnel = census.funnel | {"trained": len(train), "held out": len(held_out)}
    if is_main():
        write_json(folder / "census.json", census.summary() | funnel)
    require_examples(census, rows_path.name)
    return Preferences(train, held_out, funnel)


def hold_out(examples: Sequence[Example]) -> tuple[list[Example], list[Example]]:
    """(train, held out): held out are all pairs of a tenth of the prompts, chosen by the prompt's hash."""
    prompts = {json.dumps(e.row["prompt"], sort_keys=True) for e in examples}
    chosen = set(sorted(prompts, key=lambda prompt: derive_seed("held out", prompt))[: len(prompts) // HELD_OUT])
    sides: tuple[list[Example], list[Example]] = ([], [])
    for example in examples:
        sides[json.dumps(example.row["prompt"], sort_keys=True) in chosen].append(example)
    return sides


def require_examples(census: Census, source: str) -> None:
    """Stop where nothing is left to train on.

    Raises:
        UserError: `source` has no rows, or all were dropped.
    """
    if census.examples:
        return
    count = census.funnel["rows"]
    if count == 0:
        raise UserError(f"There are no rows to train on in {source}: see its funnel for what dropped them.")
    reason, ids = Counter({reason: len(ids) for reason, ids in census.dropped.items()}).most_common(1)[0]
    if reason == TOO_LONG:
        limit = f"max_length ({census.max_length} tokens)"
        raise UserError(
            f"All {count} rows of {source} are longer than {limit}; the shortest has {census.lengths[0]}: raise max_length."
        )
    raise UserError(
        f"None of the {count} rows of {source} can be trained on ({ids} are {reason}): check the model's chat template."
    )


def _example(row: Row, columns: Sequence[str], tokens: Callable[..., list[int]], stops: frozenset[int]) -> Example | str:
    """The row as tokens, or why it cannot be trained on."""
    try:
        prompt = tokens(row["prompt"], True)
        whole = [tokens([*row["prompt"], *row[column]], False) for column in columns]
    except TemplateError:
        return REFUSED
    if any(ids[: len(prompt)] != prompt for ids in whole):
        return NOT_A_PREFIX
    completions = tuple(ids[len(prompt) :] for ids in whole)
    if not all(stops.intersection(ids) for ids in completions):
        return NO_END
    return Example(row, prompt, completions)
