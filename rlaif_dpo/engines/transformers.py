"""The engine on a model in this process, by `transformers`."""

from collections.abc import Collection, Iterator, Sequence
from functools import partial

from rlaif_dpo.engines.base import Completion, OptionRequest, OptionScores, Request
from rlaif_dpo.engines.batches import isolate, pack
from rlaif_dpo.engines.decode import decode, decode_rows, failure
from rlaif_dpo.engines.options import OptionRow, failed_scores, option_rows, plan_groups, score
from rlaif_dpo.messages import Message
from rlaif_dpo.models.adapters import adapter_names
from rlaif_dpo.models.chat import render, stop_ids
from rlaif_dpo.models.load import LoadedModel


class TransformersEngine:
    """Implements `Engine` on a loaded model, bare (`adapter` None) or with an adapter. Several engines may share one model.

    A text depends on its request alone, up to the rounding of the arithmetic, which may differ with the batch's shape;
    batches therefore depend on the set of requests only, not on their order or on `skip`.

    Args:
        loaded: The model.
        adapter: An adapter added to it with `add_adapter`.
        max_batch_tokens: Rows of a batch x (longest prompt + room for the answer) stay at or below this.
    """

    def __init__(self, loaded: LoadedModel, adapter: str | None = None, max_batch_tokens: int = 16384) -> None:
        if adapter is not None and adapter not in adapter_names(loaded):
            raise ValueError(f"{loaded.name} has no adapter {adapter!r}; it has {adapter_names(loaded)}")
        self._loaded, self._adapter, self._budget = loaded, adapter, max_batch_tokens
        config = getattr(loaded.model, "generation_config", None)
        self._stop = stop_ids(loaded.tokenizer, getattr(config, "eos_token_id", None))

    @property
    def name(self) -> str:
        return self._loaded.name if self._adapter is None else f"{self._loaded.name}+{self._adapter}"

    @property
    def template_hash(self) -> str:
        return self._loaded.template_hash

    @property
    def context_length(self) -> int:
        return self._loaded.context_length

    def count_tokens(self, messages: Sequence[Message]) -> int:
        return len(render(self._loaded.tokenizer, messages))

    def generate(self, requests: Sequence[Request], skip: Collection[str] = ()) -> Iterator[Completion]:
        rows, failed = decode_rows(requests, self._loaded.tokenizer, self.context_length)
        yield from (completion for completion in failed if completion.id not in skip)
        # The longest first: what does not fit into memory shows at once.
        rows.sort(key=lambda row: (-len(row.prompt) - row.room, row.id))
        run = partial(decode, self._loaded, self._adapter, stop=self._stop)
        for batch in pack(rows, rows=lambda row: 1, length=lambda row: len(row.prompt) + row.room, budget=self._budget):
            if any(row.id not in skip for row in batch):
                done = isolate(batch, run, lambda row, reason: failure(row.request, reason, len(row.prompt)))
                yield from (completion for completion in done if completion.id not in skip)

    def score_options(self, requests: Sequence[OptionRequest], skip: Collection[str] = ()) -> Iterator[OptionScores]:
        rows, failed = option_rows(requests, self._loaded.tokenizer, self.context_length)
        yield from (scores for scores in failed if scores.id not in skip)
        run = partial(score, self._loaded, self._adapter)
        for batch in self._plan_scores(rows):
            if any(row.id not in skip for row in batch):
                yield from (scores for scores in isolate(batch, run, failed_scores) if scores.id not in skip)

    def _plan_scores(self, rows: Sequence[OptionRow]) -> Iterator[list[OptionRow]]:
        """Batches in which every row shares its prefix with another, then those in which none does."""
        groups = [
            part
            for group in plan_groups(rows)
            for part in pack(group, rows=lambda row: 1, length=lambda row: len(row.prompt), budget=self._budget)
        ]
        groups.sort(key=lambda group: (len(group) == 1, -_longest(group), group[0].id))
        for alike in ([g for g in groups if len(g) > 1], [g for g in groups if len(g) == 1]):
            for batch in pack(alike, rows=len, length=_longest, budget=self._budget):
                yield [row for group in batch for row in group]


def _longest(group: Sequence[OptionRow]) -> int:
    return max(len(row.prompt) for row in group)
