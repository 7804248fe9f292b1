"""Does a p of .8 win four times in five? And if not, what to do about it: a temperature or a clamp, tested out of sample."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rlaif_dpo.bootstrap import Estimate, estimate, means
from rlaif_dpo.judges.audit.measures import FEWEST
from rlaif_dpo.judges.audit.statistics import Array, logistic, sigmoid
from rlaif_dpo.judges.logits import logit
from rlaif_dpo.judges.saturation import Saturation
from rlaif_dpo.seeding import derive_rng

BINS = 10
CLAMPS = np.linspace(0.51, 0.99, 49)
LEAST_TEMPERATURE, MOST_TEMPERATURE = 0.05, 50.0


@dataclass(frozen=True)
class Labels:
    """The judge's labels in the parts they are treated in.

    Attributes:
        verdicts: (pairs, principles) logits of the single verdicts; 0 where there is none.
        weights: (pairs, principles) their shares in the pool, which sum to 1; NaN in a pair without a label.
    """

    verdicts: Array
    weights: Array

    def pooled(self, temperature: float = 1.0, clamp: float = 1.0) -> Array:
        """(pairs,) logits of the labels after a treatment of the verdicts, as `Saturation.treat` does it."""
        bound = np.inf if clamp == 1 else logit(clamp)
        return np.asarray((np.clip(self.verdicts / temperature, -bound, bound) * self.weights).sum(axis=1))

    def of(self, rows: NDArray[np.bool_]) -> "Labels":
        """The labels of some pairs."""
        return Labels(self.verdicts[rows], self.weights[rows])


@dataclass(frozen=True)
class Bin:
    """Pairs whose confidence max(p, 1 - p) lies from `low` to `high`: how sure the judge was, how often gold agreed."""

    low: float
    high: float
    n: int
    confidence: float
    accuracy: float


@dataclass(frozen=True)
class Calibration:
    """How far the judge's p can be believed.

    Attributes:
        ece: Expected calibration error (Naeini et al. 2015) over ten bins of confidence. In a small sample it is never 0.
        ece_one_order: That of one order alone.
        brier: Mean squared distance of p to gold (.25 for a judge that always says .5).
        nll: Mean cross-entropy to gold, in nats (ln 2 = .693 for a judge that always says .5).
        bins: The reliability curve.
        temperature: Fitted: above 1 where the judge is too sure. None where its p says nothing of gold.
        clamp: Fitted: verdicts beyond c are held at c and 1 - c. None where there is too little gold.
        nll_temperature: Cross-entropy of labels with a temperature fitted on the other half of the pairs.
        nll_clamp: That of labels with a clamp fitted on the other half.
        proposed: The treatment that lowered the cross-entropy out of sample, if its interval says so; else none (1.0, 0 to 1).
    """

    ece: Estimate
    ece_one_order: Estimate
    brier: Estimate
    nll: Estimate
    bins: tuple[Bin, ...]
    temperature: float | None
    clamp: float | None
    nll_temperature: Estimate
    nll_clamp: Estimate
    proposed: Saturation


def calibrate(labels: Labels, one_order: Array, gold: Array, draws: Array, ids: Sequence[str]) -> Calibration:
    """Calibration of `labels` against `gold` (pairs,); `one_order` are the logits of one order. `ids` decide the halves.

    Of raw labels, a temperature and a clamp, each fitted on one half and tested on the other, the best is proposed, provided
    that the 95 % interval of its gain over raw labels lies above 0.
    """
    known = ~np.isnan(gold)
    rows = ~np.isnan(labels.pooled()) & known
    labels, y, weights = labels.of(rows), gold[rows], draws[:, rows]
    x = labels.pooled()
    raw = cross_entropy(x, y)
    temperature = clamp = None
    by_temperature, by_clamp = np.full_like(raw, np.nan), np.full_like(raw, np.nan)
    proposed = Saturation()
    half = np.array(
        [derive_rng("calibration", id).random() < 0.5 for id, kept in zip(ids, rows, strict=True) if kept], dtype=bool
    )
    if len(y) >= FEWEST and half.any() and not half.all():
        temperature, clamp = fit_temperature(x, y), fit_clamp(labels, y)
        for there, here in ((half, ~half), (~half, half)):
            t, c = fit_temperature(x[there], y[there]), fit_clamp(labels.of(there), y[there])
            by_temperature[here] = cross_entropy(x[here] / t, y[here]) if t is not None else raw[here]
            by_clamp[here] = cross_entropy(labels.of(here).pooled(clamp=c), y[here])
        gains = {
            Saturation(temperature=temperature or 1.0): _estimate(raw - by_temperature, weights),
            Saturation(clamp=(1 - clamp, clamp)): _estimate(raw - by_clamp, weights),
        }
        best = max(gains, key=lambda treatment: gains[treatment]["value"] or 0.0)
        proposed = best if (gains[best]["low"] or 0.0) > 0 else Saturation()
    one = ~np.isnan(one_order) & known
    return Calibration(
        ece=_ece(x, y, weights),
        ece_one_order=_ece(one_order[one], gold[one], draws[:, one]),
        brier=_estimate((sigmoid(x) - y) ** 2, weights),
        nll=_estimate(raw, weights),
        bins=_bins(x, y),
        temperature=temperature,
        clamp=clamp,
        nll_temperature=_estimate(by_temperature, weights),
        nll_clamp=_estimate(by_clamp, weights),
        proposed=proposed,
    )


def cross_entropy(label: Array, gold: Array) -> Array:
    """-gold log p - (1 - gold) log(1 - p) in nats, from the logits of p."""
    return np.asarray(gold * np.logaddexp(0.0, -label) + (1 - gold) * np.logaddexp(0.0, label))


def fit_temperature(label: Array, gold: Array) -> float | None:
    """The T at which sigmoid(label / T) has the least cross-entropy to gold (Guo et al. 2017); None where none would help."""
    scale = max(float(np.abs(label).mean()), 1e-9)
    slope = float(logistic(gold, label[:, None] / scale, np.ones((1, len(label))))[0, 0]) / scale
    return max(1 / slope, LEAST_TEMPERATURE) if slope > 1 / MOST_TEMPERATURE else None


def fit_clamp(labels: Labels, gold: Array) -> float:
    """The c from .51 to .99 at which labels whose verdicts are held within 1 - c and c have the least cross-entropy to gold.

    With one saturated verdict a pair that is c = E[gold of the preferred side]: what a verdict is worth. 1 is not on offer:
    an audit that saw no error has not shown that there are none.
    """
    losses = [cross_entropy(labels.pooled(clamp=c), gold).mean() for c in CLAMPS]
    return float(round(CLAMPS[int(np.argmin(losses))], 2))


def _ece(label: Array, gold: Array, draws: Array) -> Estimate:
    """Mean over the bins, by their pairs, of |mean confidence - mean accuracy|."""
    if not len(label):
        return estimate(np.full(1, np.nan), 0)
    confidence, correct, bin_of = _confidence(label, gold)
    gaps = np.zeros((len(label), BINS))
    gaps[np.arange(len(label)), bin_of] = confidence - correct
    with np.errstate(invalid="ignore"):
        return estimate(np.abs(draws @ gaps).sum(axis=1) / draws.sum(axis=1), len(label), share=False)


def _bins(label: Array, gold: Array) -> tuple[Bin, ...]:
    confidence, correct, bin_of = _confidence(label, gold)
    groups = ((k, bin_of == k) for k in range(BINS))
    width = 0.5 / BINS
    return tuple(
        Bin(
            low=round(0.5 + k * width, 4),
            high=round(0.5 + (k + 1) * width, 4),
            n=int(group.sum()),
            confidence=float(confidence[group].mean()),
            accuracy=float(correct[group].mean()),
        )
        for k, group in groups
        if group.any()
    )


def _confidence(label: Array, gold: Array) -> tuple[Array, Array, NDArray[np.intp]]:
    """max(p, 1 - p), gold of the preferred side, and the bin, of each pair."""
    confidence = sigmoid(np.abs(label))
    correct = np.where(label >= 0, gold, 1 - gold)
    return confidence, correct, np.minimum(((confidence - 0.5) * 2 * BINS).astype(int), BINS - 1)


def _estimate(values: Array, draws: Array) -> Estimate:
    return estimate(means(values, draws), int((~np.isnan(values)).sum()), share=False)
