"""The numbers' machinery: two regressions and exact binomial bounds, all resamples at once.

`draws` is that of `bootstrap.draw`, cut to the rows at hand: shape (1 + resamples, rows), line 0 the sample itself.
"""

from collections.abc import Callable
from functools import lru_cache
from math import log, log1p
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from rlaif_dpo.bootstrap import TAIL

Array = NDArray[np.float64]
Z95 = NormalDist().inv_cdf(1 - TAIL)
RIDGE = 0.1
"""Keeps a perfectly separable logistic fit finite; nothing beside the hundred or so of an ordinary one."""


def least_squares(y: Array, x: Array, draws: Array) -> Array:
    """The coefficients of `y` (rows,) on `x` (rows, k), without intercept, in every line of `draws`: (1 + resamples, k)."""
    return _solve(_gram(x, draws, np.ones(len(x))), draws @ (x * y[:, None]))


def logistic(target: Array, x: Array, draws: Array) -> Array:
    """The coefficients of logit P(target) on `x` (rows, k), without intercept: (1 + resamples, k). `target` may be graded.

    Line 0 is the maximum of the likelihood (with `RIDGE`, by Newton's method). The resamples are one Newton step from it, which
    is as exact as the bootstrap is and needs no loop.
    """
    k = x.shape[1]
    ridge, one = RIDGE * np.eye(k), np.ones((1, len(x)))
    at = np.zeros(k)
    for _ in range(50):
        p = sigmoid(x @ at)
        step = _solve(_gram(x, one, p * (1 - p)) + ridge, one @ (x * (target - p)[:, None]) - RIDGE * at)[0]
        at += step * min(1.0, 2.0 / max(float(np.abs(step).max()), 1e-12))
        if np.abs(step).max() < 1e-10:
            break
    p = sigmoid(x @ at)
    steps = _solve(_gram(x, draws, p * (1 - p)) + ridge, draws @ (x * (target - p)[:, None]) - RIDGE * at)
    return np.asarray(at + steps)


def sigmoid(x: Array) -> Array:
    """1 / (1 + exp(-x)), without overflow; NaN where `x` is."""
    with np.errstate(invalid="ignore"):
        return np.asarray(np.exp(-np.logaddexp(0.0, -x)))


def at_least(k: int, n: int, p: float) -> float:
    """P(X >= k) of a binomial X out of `n` with chance `p`: exact."""
    if k <= 0 or p >= 1:
        return 1.0
    if p <= 0:
        return 0.0
    i = np.arange(k, n + 1)
    return float(np.exp(_log_choose(n)[k:] + i * log(p) + (n - i) * log1p(-p)).sum())


def standard_error(distribution: Array) -> float:
    """That of a normal distribution with the same central 95 % as the resamples of `distribution`."""
    low, high = np.nanpercentile(distribution[1:], [100 * TAIL, 100 * (1 - TAIL)])
    return float(high - low) / (2 * Z95)


def exact_interval(k: int, n: int) -> tuple[float, float]:
    """The 95 % interval of a share that came out as `k` of `n` (Clopper & Pearson 1934)."""
    low = 0.0 if k == 0 else _root(lambda p: at_least(k, n, p) - TAIL)
    high = 1.0 if k == n else _root(lambda p: at_least(k + 1, n, p) - (1 - TAIL))
    return low, high


@lru_cache
def _log_choose(n: int) -> Array:
    """The logs of the binomial coefficients of `n`."""
    factorials = np.concatenate(([0.0], np.cumsum(np.log(np.arange(1, n + 1)))))
    return np.asarray(factorials[n] - factorials - factorials[::-1])


def _root(rising: Callable[[float], float]) -> float:
    low, high = 0.0, 1.0
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if rising(middle) < 0 else (low, middle)
    return low


def _gram(x: Array, draws: Array, weights: Array) -> Array:
    rows, k = x.shape
    products = (x[:, :, None] * x[:, None, :]).reshape(rows, k * k) * weights[:, None]
    return np.asarray((draws @ products).reshape(-1, k, k))


def _solve(a: Array, b: Array) -> Array:
    """Solves a z = b for every line: a is (lines, k, k), b is (lines, k). A resample without spread gives no infinite answer."""
    k = a.shape[-1]
    tiny = 1e-9 * np.trace(a, axis1=1, axis2=2)[:, None, None] + 1e-12
    return np.asarray(np.linalg.solve(a + tiny * np.eye(k), b[:, :, None])[:, :, 0])
