"""Judges of a known logit model, for pairs whose replies carry their quality in their words.

logit(first shown over second shown) = sharpness * (q1 - q2) + position + length * tanh((len1 - len2) / LENGTH_SD)
    + own * (own1 - own2) + layout * (layout1 - layout2) + noise in each order + noise of the pair
"""

import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from math import exp, tanh

import numpy as np

from rlaif_dpo.judges.audit import Item
from rlaif_dpo.judges.audit.table import formatted
from rlaif_dpo.judges.base import Comparison, Criterion, Judgment, Verdict
from rlaif_dpo.judges.logits import log_sigmoid, sigmoid
from rlaif_dpo.messages import user

QUALITY = re.compile(r"quality (-?\d+\.\d+)")
EMPTY_QUALITY = -4.0
FILLER = "word word word, as ever. "
BASE, LENGTH_SD = 400, 100.0
CRITERION = Criterion("good", "Which is better?")
ASK = (user("?"),)


@dataclass
class SyntheticJudge:
    """Implements `Judge`."""

    seed: int = 0
    sharpness: float = 1.0
    position: float = 0.0
    length: float = 0.0
    own: float = 0.0
    layout: float = 0.0
    obeys: float = 0.0
    noise: float = 0.5
    pair_noise: float = 0.0
    mass: float = 1.0
    name: str = "synthetic"

    def compare(self, comparisons: Sequence[Comparison], skip: Collection[str] = ()) -> Iterator[Judgment]:
        rng = np.random.default_rng(self.seed)
        noises = rng.normal(size=(len(comparisons), 3)) * (self.noise, self.noise, self.pair_noise)
        for comparison, (noise_ab, noise_ba, pair) in zip(comparisons, noises.tolist(), strict=True):
            gap = self._gap(comparison) + (pair if comparison.first != comparison.second else 0.0)
            yield judgment(comparison, gap + self.position + noise_ab, gap - self.position + noise_ba, self.mass)

    def _gap(self, c: Comparison) -> float:
        gap = self.sharpness * (quality(c.first) - quality(c.second))
        if self.length:
            gap += self.length * tanh((len(c.first) - len(c.second)) / LENGTH_SD)
        if self.own:
            gap += self.own * (("by me" in c.first) - ("by me" in c.second))
        if self.layout:
            gap += self.layout * (formatted(c.first) - formatted(c.second))
        if self.obeys:
            gap += self.obeys * (("better" in c.first) - ("better" in c.second))
        return gap


def judgment(comparison: Comparison, logit_ab: float, logit_ba: float, mass: float = 1.0) -> Judgment:
    """A judgment with these logits of the first reply in the two orders."""
    p = sigmoid((logit_ab + logit_ba) / 2)
    ab = (log_sigmoid(logit_ab), log_sigmoid(-logit_ab))
    ba = (log_sigmoid(logit_ba), log_sigmoid(-logit_ba))
    position = (logit_ab - logit_ba) / 2
    verdict = Verdict(CRITERION.principle_id, 1.0, p, ab, ba, mass, mass, position, {"ok": 2})
    return Judgment(comparison.id, p, (verdict,), "synthetic", "logprob", 100, 0.001)


def quality(text: str) -> float:
    """The quality that a reply's words give; low without any. Padding, order and injections change nothing."""
    match = QUALITY.search(text)
    return float(match[1]) if match else EMPTY_QUALITY


def reply(quality: float, length: int, own: bool = False, layout: bool = False) -> str:
    """A reply of `length` characters."""
    text = f"quality {quality:.4f}. {'by me. ' if own else ''}" + ("\n- one\n- two\n" if layout else "")
    return text + (FILLER * (max(length, 0) // len(FILLER) + 1))[: max(length - len(text), 0)]


@dataclass
class World:
    """Pairs with quality gaps of standard deviation 1.5 (papers.md (a)), lengths that go with quality by `correlation`."""

    pairs: int
    seed: int = 0
    gap: float = 1.5
    correlation: float = 0.0
    gold: str = "drawn"
    ties: float = 0.0

    def items(self) -> list[Item]:
        rng = np.random.default_rng([self.seed, self.pairs])
        q = rng.normal(size=(self.pairs, 2)) * self.gap / np.sqrt(2)
        free = rng.normal(size=(self.pairs, 2))
        z = self.correlation * q / (self.gap / np.sqrt(2)) + np.sqrt(1 - self.correlation**2) * free
        lengths = BASE + z * LENGTH_SD / np.sqrt(2)
        marks = rng.random((self.pairs, 4)) < (0.5, 0.5, 0.3, 0.3)
        tied = rng.random(self.pairs) < self.ties
        chance = rng.random(self.pairs)
        items = []
        for n in range(self.pairs):
            (q1, q2), (l1, l2), (own1, own2, lay1, lay2) = q[n].tolist(), lengths[n].tolist(), marks[n].tolist()
            if tied[n]:
                q2 = q1
            first, second = reply(q1, round(l1), own1, lay1), reply(q2, round(l2), own2, lay2)
            comparison = Comparison(f"{self.seed}/{n}", ASK, first, second, (CRITERION,))
            items.append(Item(comparison, self._gold(q1 - q2, chance[n]), authors=(_author(own1), _author(own2))))
        return items

    def _gold(self, gap: float, chance: float) -> float:
        p = 1 / (1 + exp(-gap))
        if gap == 0:
            return 0.5
        return {"drawn": float(chance < p), "exact": p, "sure": float(gap > 0)}[self.gold]


def _author(own: bool) -> str:
    return "me" if own else "other"
