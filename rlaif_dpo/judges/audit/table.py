"""The judge's views of the items as arrays, one row a pair. NaN stands for what is not known."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from rlaif_dpo.judges.audit.items import Item, View
from rlaif_dpo.judges.audit.statistics import Array

LIST_LINE = re.compile(r"^\s*(?:[-*•·]|\d{1,2}[.)])\s+\S", re.MULTILINE)
MARKUP = re.compile(r"^\s*#{1,6} \S|\*\*[^*\n]+\*\*|^\s*```|^\s*\|.+\|\s*$", re.MULTILINE)


@dataclass(frozen=True)
class Table:
    """Every array has one entry a pair; signs are those of the first reply against the second.

    Attributes:
        label: Logit of the judge's p.
        raw: The mean of the two orders' logits, before any treatment; without orders, `label`.
        ab: Logit with the first reply shown as A.
        ba: Logit with the first reply shown as B.
        gold: P(first is better).
        longer: +1 where the first reply has more characters, -1 where fewer, 0 where as many.
        length: tanh of the difference in characters over its standard deviation (AlpacaEval's length-controlled win rate).
        own: +1 where only the first reply is the judge's own writing, -1 where only the second is.
        layout: +1 where only the first reply has a list or other markup, -1 where only the second has.
    """

    label: Array
    raw: Array
    ab: Array
    ba: Array
    gold: Array
    longer: Array
    length: Array
    own: Array
    layout: Array

    def __len__(self) -> int:
        return len(self.label)


def tabulate(items: Sequence[Item], views: Mapping[str, View], own: str | None) -> Table:
    """The table of `items`; `own` is the author whose replies count as the judge's own."""
    seen = [views[item.comparison.id] for item in items]
    difference = _differences(items, lambda text, author: len(text))
    spread = float(difference.std())
    return Table(
        label=floats([v.label for v in seen]),
        raw=floats([v.raw for v in seen]),
        ab=floats([None if v.orders is None else v.orders[0] for v in seen]),
        ba=floats([None if v.orders is None else v.orders[1] for v in seen]),
        gold=floats([item.gold for item in items]),
        longer=np.sign(difference),
        length=np.tanh(difference / spread) if spread > 0 else np.zeros(len(items)),
        own=_differences(items, lambda text, author: own is not None and author == own),
        layout=_differences(items, lambda text, author: formatted(text)),
    )


def formatted(text: str) -> bool:
    """Whether `text` has a list of two lines or more, a heading, bold type, a table or a code block."""
    return len(LIST_LINE.findall(text)) >= 2 or MARKUP.search(text) is not None


def _differences(items: Sequence[Item], feature: Callable[[str, str | None], float]) -> Array:
    pairs = [((i.comparison.first, i.authors[0]), (i.comparison.second, i.authors[1])) for i in items]
    return np.array([float(feature(*first)) - float(feature(*second)) for first, second in pairs])


def floats(values: Sequence[float | None]) -> Array:
    """`values` as an array, NaN for None."""
    return np.array([np.nan if value is None else value for value in values], dtype=np.float64)
