"""Probabilities as logits: where judges average, pool and treat them."""

from collections.abc import Iterable, Sequence
from math import exp, log, log1p

CERTAIN = 1e-9
"""A p nearer to 0 or 1 than this counts as this near, so that one sure voice has a finite logit (20.7)."""


def sigmoid(x: float) -> float:
    """1 / (1 + exp(-x)), without overflow."""
    return 1 / (1 + exp(-x)) if x >= 0 else exp(x) / (1 + exp(x))


def log_sigmoid(x: float) -> float:
    """log(sigmoid(x)), without underflow."""
    return -log1p(exp(-x)) if x >= 0 else x - log1p(exp(x))


def logit(p: float) -> float:
    """log(p / (1 - p)), finite: p is held within `CERTAIN` of 0 and 1."""
    p = min(max(p, CERTAIN), 1 - CERTAIN)
    return log(p / (1 - p))


def log_mean_exp(values: Sequence[float]) -> float:
    """The log of the mean of exp(values), of which there must be one at least."""
    most = max(values)
    return most + log(sum(exp(value - most) for value in values) / len(values))


def average_logit(logit_ab: float, logit_ba: float, orders: str) -> float:
    """The logit of P(first is better) from both orders' logits.

    `logit` averages the logits, which removes a constant pull of the position exactly; `probability` averages the two
    probabilities (Lee et al. 2023, 2309.00267, section 2.1) and is pulled towards .5 by it.
    """
    if orders == "logit":
        return (logit_ab + logit_ba) / 2
    both = (logit_ab, logit_ba)
    return log_mean_exp([log_sigmoid(x) for x in both]) - log_mean_exp([log_sigmoid(-x) for x in both])


def pool(votes: Iterable[tuple[float, float]]) -> float | None:
    """The mean logit of (weight, logit) votes, by weight; None where no weight is above 0."""
    had = list(votes)
    weight = sum(w for w, _ in had)
    return sum(w * x for w, x in had) / weight if weight > 0 else None
