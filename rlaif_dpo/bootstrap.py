"""Rates over rows (prompts, pairs) with 95 % intervals by the paired bootstrap (Efron & Tibshirani 1993, chapter 13)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, TypedDict

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Array = NDArray[np.float64]

TAIL = 0.025


class Estimate(TypedDict):
    """A number with its 95 % interval; `n` is how many rows it rests on. All None (and n 0) where nothing was measured."""

    value: float | None
    low: float | None
    high: float | None
    n: int


def draw(rows: int, resamples: int, seed: int) -> Array:
    """How often each row counts in each resample: shape (1 + resamples, rows).

    Line 0 is the sample itself (all ones), the others are resamples with replacement. One matrix serves every policy and every
    metric, which makes each difference a paired one.
    """
    import numpy as np

    counts = np.random.default_rng(seed).multinomial(rows, np.full(rows, 1 / rows), size=resamples)
    return np.vstack([np.ones(rows), counts])


def rates(outcomes: Sequence[float | None], draws: Array) -> Array:
    """The mean of `outcomes` (one a row, None where it does not apply) in every line of `draws`: shape (1 + resamples,)."""
    import numpy as np

    return means(np.array([np.nan if outcome is None else outcome for outcome in outcomes], dtype=np.float64), draws)


def means(values: Array, draws: Array) -> Array:
    """The mean of `values` (one a row, NaN where it does not apply) in every line of `draws`: shape (1 + resamples,).

    NaN in a resample that holds no row to which it applies.
    """
    import numpy as np

    applies = ~np.isnan(values)
    with np.errstate(invalid="ignore"):
        return np.asarray((draws @ np.where(applies, values, 0.0)) / (draws @ applies))


def estimate(distribution: Array, n: int, share: bool = True) -> Estimate:
    """The value (line 0) and the percentile interval of a `distribution` from `rates`, or from sums and means of such.

    A `share` that came out as exactly 0 or 1 has no spread to resample; its open end is the exact binomial bound
    (Clopper & Pearson 1934): 0 of n gives high = 1 - .025^(1/n).
    """
    import numpy as np

    value = float(distribution[0])
    if n == 0 or np.isnan(value):
        return {"value": None, "low": None, "high": None, "n": 0}
    low, high = (float(bound) for bound in np.nanpercentile(distribution[1:], [100 * TAIL, 100 * (1 - TAIL)]))
    if share and value == 0:
        high = 1 - TAIL ** (1 / n)
    if share and value == 1:
        low = TAIL ** (1 / n)
    return {"value": value, "low": low, "high": high, "n": n}
