"""How many rows go through a model at once: the recipe's number or one found by trial, and fewer when the memory runs out.

The batch of an optimiser step stays as it is, and so does what is learned: fewer rows at once are accumulated more often. Several
processes share a batch out among them, and what is said here of rows at once holds for each.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import torch

from rlaif_dpo.errors import UserError
from rlaif_dpo.files import Row, read_json, write_json
from rlaif_dpo.models.hardware import release_memory
from rlaif_dpo.progress import Progress
from rlaif_dpo.recipe.training import Optimisation, Training
from rlaif_dpo.train.data import Example
from rlaif_dpo.train.processes import Restart, is_main, world_size

MEMORY = "micro_batch.json"
"""In a stage's folder: what was found out, so that a stopped run does not find it out again."""
SIGNS = ("can't allocate memory", "CUBLAS_STATUS_ALLOC_FAILED", "CUDA error: out of memory")
"""In the messages of errors that torch raises as plain `RuntimeError`s."""
FIXES = "lower max_length, or set gradient_checkpointing: true or quantization: nf4"

S = TypeVar("S", bound=Optimisation)
T = TypeVar("T", bound=Training)
Event = Callable[..., None]


def nobody(**facts: object) -> None:
    """An `Event` that no one hears."""


def in_micro_batches(
    train: Callable[[S], None],
    settings: S,
    folder: Path,
    key: str,
    name: str,
    progress: Progress,
    event: Event = nobody,
    trial: Callable[[S], None] | None = None,
) -> None:
    """`train` with as many rows at once as there is memory for.

    `train` gets the settings with a number for `micro_batch_size`. When it runs out of memory it is called again with half as
    many rows, and goes on from its own last checkpoint. What works is kept in `folder/micro_batch.json`.

    Args:
        train: Does the work of the stage.
        settings: Of the stage.
        folder: Of the stage.
        key: Of the work; what was found out for other work does not count.
        name: Of the stage, for people.
        progress: Told of every change.
        event: Told of every change, with `micro_batch_size`, `accumulation` and `because`.
        trial: With `micro_batch_size: auto`, called first, as often as needed: two steps on the longest rows. None: none.

    Raises:
        UserError: One row at once is too much.
        Restart: One of several processes ran out of memory.
    """
    share, known = settings.batch_size // world_size(), read_json(folder / MEMORY) or {}

    def found(size: int, because: str) -> Row:
        return {"key": key, "micro_batch_size": size, "accumulation": share // size, "because": because}

    def fewer(size: int) -> int:
        """What to go on with after `size` was too much; several processes do not go on but begin again."""
        if size == 1:
            raise UserError(f"{name} ran out of memory with one row at once: {FIXES}.")
        half = _at_most(size // 2, share)
        if world_size() > 1:
            raise Restart(found(half, f"the memory ran out with {size}"))
        return half

    size = _at_most(min(settings.rows_at_once, known["micro_batch_size"] if known.get("key") == key else share), share)
    if trial is not None and settings.micro_batch_size == "auto" and known.get("key") != key:
        while _runs_out(trial, settings, size):
            size = fewer(size)
        if is_main():
            keep_size(folder, found(size, "found by trial on the longest rows"), name, settings.batch_size, progress, event)
    while _runs_out(train, settings, size):
        size, before = fewer(size), size
        keep_size(folder, found(size, f"the memory ran out with {before}"), name, settings.batch_size, progress, event)


def keep_size(folder: Path, found: Row, name: str, batch: int, progress: Progress, event: Event) -> None:
    """Write and say what was found out."""
    write_json(folder / MEMORY, found)
    progress.say(f"{name}: {found['micro_batch_size']} of {batch} rows at once from here on: {found['because']}.")
    event(**{fact: value for fact, value in found.items() if fact != "key"})


def trial_of(settings: T, examples: Sequence[Example]) -> tuple[T, list[Example]]:
    """Two steps, each on the longest rows that would be in memory at once: in the second the optimiser has its moments, too."""
    size = settings.rows_at_once * world_size()
    longest = sorted(examples, key=lambda example: example.length, reverse=True)[:size]
    return settings.model_copy(update={"batch_size": size, "epochs": 2}), longest


def _runs_out(work: Callable[[S], None], settings: S, size: int) -> bool:
    """Whether `work` fails for want of memory, which is then free again: also of what the error held on to."""
    try:
        work(settings.model_copy(update={"micro_batch_size": size}))
        return False
    except RuntimeError as error:
        if not isinstance(error, torch.OutOfMemoryError) and not any(sign in str(error) for sign in SIGNS):
            raise
    release_memory()
    return True


def _at_most(size: int, share: int) -> int:
    """`size`, or the next smaller number that divides the rows of a process."""
    return max(fewer for fewer in range(1, size + 1) if share % fewer == 0)
