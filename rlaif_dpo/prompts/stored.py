"""The prompts of a run where they are many: on disk."""

from array import array
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import overload

from rlaif_dpo.files import Row, placed_rows, rows_at
from rlaif_dpo.prompts.rows import PromptRow


class StoredPrompts(Sequence[PromptRow]):
    """The rows of a phase in a run's `prompts.jsonl`, read as they are asked for: memory holds their places, 8 bytes each.

    Raises:
        UserError: A line but the last is not JSON.
    """

    def __init__(self, path: Path, phase: str) -> None:
        self._path = path
        self._places = array("Q", (place for place, row in placed_rows(path) if row["phase"] == phase))

    def __len__(self) -> int:
        return len(self._places)

    def __iter__(self) -> Iterator[PromptRow]:
        return map(prompt_of, rows_at(self._path, self._places))

    @overload
    def __getitem__(self, index: int) -> PromptRow: ...

    @overload
    def __getitem__(self, index: slice) -> list[PromptRow]: ...

    def __getitem__(self, index: int | slice) -> PromptRow | list[PromptRow]:
        if isinstance(index, slice):
            return [prompt_of(row) for row in rows_at(self._path, self._places[index])]
        return next(map(prompt_of, rows_at(self._path, [self._places[index]])))


def prompt_of(row: Row) -> PromptRow:
    """The prompt of a row of `prompts.jsonl`."""
    return PromptRow(row["id"], tuple(row["messages"]), tuple(row["tags"]), row["facts"])
