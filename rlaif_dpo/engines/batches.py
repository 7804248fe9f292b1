"""Which rows run together, and what happens when a batch fails."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Protocol, TypeVar

import torch


class HasId(Protocol):
    """Anything with an id: requests, rows, completions."""

    @property
    def id(self) -> str: ...


T = TypeVar("T")
Row = TypeVar("Row", bound=HasId)
Result = TypeVar("Result", bound=HasId)


def pack(items: Iterable[T], rows: Callable[[T], int], length: Callable[[T], int], budget: int) -> Iterator[list[T]]:
    """Consecutive items in batches of `rows` x longest `length` <= `budget` tokens; an item above the budget runs alone."""
    batch: list[T] = []
    count = longest = 0
    for item in items:
        if batch and (count + rows(item)) * max(longest, length(item)) > budget:
            yield batch
            batch, count, longest = [], 0, 0
        batch.append(item)
        count += rows(item)
        longest = max(longest, length(item))
    if batch:
        yield batch


def isolate(
    rows: Sequence[Row], run: Callable[[Sequence[Row]], Iterator[Result]], failed: Callable[[Row, str], Result]
) -> Iterator[Result]:
    """The results of `run(rows)`. If it raises, the rows not yet had are run in two halves, down to the one row that fails.

    Out of memory is such a failure: half the rows need half the memory.
    """
    had: set[str] = set()
    try:
        for result in run(rows):
            had.add(result.id)
            yield result
        return
    except Exception as error:
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    if len(rows) == 1:
        yield failed(rows[0], reason)
        return
    rest = [row for row in rows if row.id not in had]
    middle = (len(rest) + 1) // 2
    for half in (rest[:middle], rest[middle:]):
        if half:
            yield from isolate(half, run, failed)
