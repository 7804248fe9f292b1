"""Completions that survive a kill: each goes to its JSONL file as it finishes and is never asked for again."""

from collections.abc import Callable, Sequence
from pathlib import Path

from rlaif_dpo.engines.base import Completion, Engine, Request
from rlaif_dpo.files import JsonlWriter, Row, read_jsonl
from rlaif_dpo.progress import Progress


def complete(
    path: Path, engine: Engine, requests: Sequence[Request], describe: Callable[[Completion], Row], progress: Progress, label: str
) -> dict[str, Row]:
    """Every row of `path`, by id, after the missing ones of `requests` were generated and appended as they finished.

    `describe` gives the caller's columns; text, finish reason, error, tokens, seed, engine and template hash are on every row.
    `requests` must not depend on what `path` holds: the engine plans its batches over all of them, so that a resumed run gives
    the same texts. A row that failed is a row with `error`; it is not tried again.
    """
    rows = {row["id"]: row for row in read_jsonl(path)}
    seeds = {request.id: request.seed for request in requests}
    done = seeds.keys() & rows.keys()
    with JsonlWriter(path) as writer, progress.task(label, len(requests), len(done)) as task:
        for completion in engine.generate(requests, skip=done):
            row = {
                "id": completion.id,
                **describe(completion),
                "text": completion.text,
                "finish_reason": completion.finish_reason,
                "error": completion.error,
                "prompt_tokens": completion.prompt_tokens,
                "completion_tokens": completion.completion_tokens,
                "seed": seeds[completion.id],
                "engine": engine.name,
                "template_hash": engine.template_hash,
            }
            writer.write(row)
            rows[completion.id] = row
            task.advance(1, completion.completion_tokens)
    return rows
