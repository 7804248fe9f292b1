"""The judge made of people's labels."""

from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from statistics import fmean

from rlaif_dpo.judges.base import Comparison, Judgment
from rlaif_dpo.judges.labels import Label, Texts, texts_of


class HumanJudge:
    """Implements `Judge` by looking up labels; several people's are averaged, and each is kept as a member.

    A label that has its pair's texts is found by them, whichever reply stands first; one that has none, by the comparison's id.

    Args:
        labels: What people said.
    """

    def __init__(self, labels: Sequence[Label]) -> None:
        self._by_texts: defaultdict[Texts, list[Label]] = defaultdict(list)
        self._by_id: defaultdict[str, list[Label]] = defaultdict(list)
        for label in labels:
            if label.texts is not None:
                self._by_texts[label.texts].append(label)
            elif label.id is not None:
                self._by_id[label.id].append(label)

    @property
    def name(self) -> str:
        return "human"

    def compare(self, comparisons: Sequence[Comparison], skip: Collection[str] = ()) -> Iterator[Judgment]:
        return (self._judgment(comparison) for comparison in comparisons if comparison.id not in skip)

    def _judgment(self, comparison: Comparison) -> Judgment:
        conversation, first, second = texts_of(comparison.messages, comparison.first, comparison.second)
        found = (*self._by_texts.get((conversation, first, second), ()), *self._by_id.get(comparison.id, ()))
        said = [(label.annotator, label.p) for label in found]
        if first != second:
            mirrored = self._by_texts.get((conversation, second, first), ())
            said += [(label.annotator, 1 - label.p) for label in mirrored]
        members = tuple(
            Judgment(comparison.id, p, (), annotator or f"annotator {n}", "human", 0)
            for n, (annotator, p) in enumerate(said, start=1)
        )
        ps = [p for _, p in said]
        return Judgment(
            id=comparison.id,
            p=fmean(ps) if ps else None,
            verdicts=(),
            judge=self.name,
            source="human",
            tokens=0,
            error=None if ps else "nobody has labelled this pair",
            members=members,
            spread=max(ps) - min(ps) if ps else None,
        )
