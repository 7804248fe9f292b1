"""What the engine calls behind a judgment come to: how they ended, what they took, how much they can be trusted."""

from collections.abc import Iterable

from rlaif_dpo.engines.base import Completion, OptionScores
from rlaif_dpo.judges.base import LabelSource, total_cost, weakest

Call = Completion | OptionScores


def tokens_of(calls: Iterable[Call]) -> int:
    """Tokens read and written."""
    total = 0
    for call in calls:
        if call.spent is not None:
            total += call.spent.usage.prompt + call.spent.usage.completion
        else:
            total += call.prompt_tokens + (call.completion_tokens if isinstance(call, Completion) else 0)
    return total


def cost_of(calls: Iterable[Call]) -> float | None:
    """US dollars paid to endpoints; None if a price is not known."""
    return total_cost(0.0 if call.spent is None else call.spent.cost_usd for call in calls)


def source_of(calls: Iterable[Call]) -> LabelSource:
    """The weakest source among the scores that were had."""
    return weakest(call.source for call in calls if isinstance(call, OptionScores) and call.error is None)
