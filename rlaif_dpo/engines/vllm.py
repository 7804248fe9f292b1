"""The engine on a model in vLLM, in this process."""

from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

from rlaif_dpo.engines.base import Completion, OptionRequest, OptionScores, Request
from rlaif_dpo.engines.batches import isolate
from rlaif_dpo.engines.decode import DecodeRow, completion_of, decode_rows, failure
from rlaif_dpo.engines.options import OptionRow, Spelling, failed_scores, next_tokens, option_rows, scores_of
from rlaif_dpo.engines.vllm_model import MOST_LOGPROBS, Asked, VllmModel
from rlaif_dpo.messages import Message
from rlaif_dpo.models.chat import render


class VllmEngine:
    """Implements `Engine` on a model in vLLM, bare or with an adapter. Several engines may share one model.

    vLLM puts rows together as they come and go, so a text depends on its request up to the rounding of the arithmetic, and rows
    in `skip` are not run again. It draws by its own generator, seeded by the request: sampled texts are other ones than those of
    `TransformersEngine`.

    Args:
        model: Started when it is first asked, and again after it was closed.
        adapter: The folder of an adapter; the engine is named after its parent, the stage.

    Raises:
        UserError: There is no adapter there, or vLLM cannot take it.
    """

    def __init__(self, model: VllmModel, adapter: Path | None = None) -> None:
        if adapter is not None:
            model.admit(adapter)
        self._model, self._adapter = model, adapter

    @property
    def name(self) -> str:
        return self._model.name if self._adapter is None else f"{self._model.name}+{self._adapter.resolve().parent.name}"

    @property
    def template_hash(self) -> str:
        return self._model.template_hash

    @property
    def context_length(self) -> int:
        return self._model.context_length

    def count_tokens(self, messages: Sequence[Message]) -> int:
        return len(render(self._model.tokenizer, messages))

    def generate(self, requests: Sequence[Request], skip: Collection[str] = ()) -> Iterator[Completion]:
        wanted = [request for request in requests if request.id not in skip]
        if wanted:
            self._model.start()
        rows, failed = decode_rows(wanted, self._model.tokenizer, self.context_length)
        yield from failed
        if rows:
            yield from isolate(rows, self._complete, lambda row, reason: failure(row.request, reason, len(row.prompt)))

    def score_options(self, requests: Sequence[OptionRequest], skip: Collection[str] = ()) -> Iterator[OptionScores]:
        wanted = [request for request in requests if request.id not in skip]
        if wanted:
            self._model.start()
        rows, failed = option_rows(wanted, self._model.tokenizer, self.context_length, room=1)
        yield from failed
        if rows:
            yield from isolate(rows, self._score, failed_scores)

    def _complete(self, rows: Sequence[DecodeRow]) -> Iterator[Completion]:
        by_id = {row.id: row for row in rows}
        asked = [Asked(row.id, row.prompt, row.room, row.request.sampling, row.request.seed) for row in rows]
        for answer in self._model.answers(asked, self._adapter):
            row = by_id[answer.id]
            if answer.error is not None:
                yield failure(row.request, answer.error, len(row.prompt))
                continue
            row.tokens = list(answer.tokens)
            row.finish_reason = "stop" if row.tokens[-1] in self._model.stop else "length"
            if not answer.finite:
                row.finish_reason = "error"
            yield completion_of(row, self._model.tokenizer, self._model.dtype)

    def _score(self, rows: Sequence[OptionRow]) -> Iterator[OptionScores]:
        """One token after each prompt and, where spellings have several, after each start of one: the cache has the prompt."""
        asked: list[Asked] = []
        owners: dict[str, tuple[OptionRow, Spelling]] = {}
        for row in rows:
            for start, tokens in next_tokens([row.spellings]).items():
                for first in range(0, len(tokens), MOST_LOGPROBS):
                    id = str(len(asked))
                    owners[id] = (row, start)
                    asked.append(Asked(id, (*row.prompt, *start), wanted=tokens[first : first + MOST_LOGPROBS]))
        left = Counter(row.id for row, _ in owners.values())
        after: dict[str, dict[Spelling, dict[int, float]]] = {row.id: {} for row in rows}
        refused: dict[str, str] = {}
        for answer in self._model.answers(asked, self._adapter):
            row, start = owners[answer.id]
            left[row.id] -= 1
            after[row.id].setdefault(start, {}).update(answer.logprobs)
            if answer.error is not None:
                refused[row.id] = answer.error
            if not left[row.id]:
                found, error = after.pop(row.id), refused.get(row.id)
                yield scores_of(row, found, self._model.dtype) if error is None else failed_scores(row, error)
