"""Worlds with ground truth, by the name their prompts carry in `facts["world"]`."""

import importlib
from collections.abc import Callable, Iterable
from typing import Any

from rlaif_dpo.prompts.rows import PromptRow

CHECKERS = {"sandbox": ("rlaif_dpo.sandbox.truth", "check")}


def truth_of(prompts: Iterable[PromptRow]) -> Callable[[dict[str, Any], str], Any] | None:
    """The function (facts, answer) -> Checked of the world the prompts come from; None for real prompts."""
    for row in prompts:
        if row.facts.get("world") in CHECKERS:
            module, function = CHECKERS[row.facts["world"]]
            return getattr(importlib.import_module(module), function)  # type: ignore[no-any-return]
    return None
