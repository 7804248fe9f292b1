"""Plain question-answer rows mixed into SFT, so that help is not unlearned (2212.08073, section 3.2)."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from rlaif_dpo.files import Row
from rlaif_dpo.messages import assistant, user
from rlaif_dpo.progress import Progress
from rlaif_dpo.prompts.sources import read_rows
from rlaif_dpo.recipe.schema import Revise
from rlaif_dpo.revise.loop import Steps
from rlaif_dpo.revise.rows import unfit
from rlaif_dpo.seeding import derive_rng


def helpfulness_rows(threads: Sequence[Steps], settings: Revise, provenance: Row, seed: int, progress: Progress) -> list[Row]:
    """`settings.helpfulness.rows` rows, drawn without replacement from the source, or from the drafts that no critique flagged.

    Rows without a usable prompt and completion are passed over; says so where fewer are left than were asked for.
    Raises:
        UserError: the source cannot be read.
    """
    mix = settings.helpfulness
    if mix.rows == 0:
        return []
    pool = list(_rows_of(mix.source) if mix.source is not None else _unflagged(threads, settings.max_repetition))
    if len(pool) < mix.rows:
        where = mix.source or "the drafts that no critique flagged"
        progress.say(f"revise.helpfulness: {len(pool)} rows from {where}, where {mix.rows} were asked for.")
    drawn = sorted(derive_rng(seed, "helpfulness").sample(range(len(pool)), min(mix.rows, len(pool))))
    common = {"kind": "helpfulness", "round": 0, "principle_ids": [], "flagged": False, **provenance}
    return [{"id": f"helpfulness/{number}", **pool[number], **common} for number in drawn]


def _unflagged(threads: Sequence[Steps], max_repetition: float) -> Iterable[Row]:
    for thread in threads:
        criticised = any(step.error is None for step in thread.steps) and not any(step.flagged for step in thread.steps)
        if criticised and unfit(thread.draft, thread.finish_reason, max_repetition) is None:
            yield {"prompt": list(thread.prompt.messages), "completion": [assistant(thread.draft)], "prompt_id": thread.prompt.id}


def _rows_of(source: str) -> Iterable[Row]:
    for number, row in enumerate(read_rows(source)):
        prompt, completion = (row or {}).get("prompt"), (row or {}).get("completion")
        messages = [user(prompt)] if isinstance(prompt, str) else prompt
        reply = [assistant(completion)] if isinstance(completion, str) else completion
        if _is_said(messages) and _is_said(reply):
            yield {"prompt": messages, "completion": reply, "prompt_id": f"{Path(source).name}#{number}"}


def _is_said(messages: Any) -> bool:
    return bool(messages) and isinstance(messages, list) and all(isinstance(m, dict) and m.get("content") for m in messages)
