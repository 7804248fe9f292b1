from math import log

import numpy as np
import pytest

from rlaif_dpo.bootstrap import draw
from rlaif_dpo.judges.audit.calibration import Labels, calibrate, cross_entropy, fit_clamp, fit_temperature
from rlaif_dpo.judges.audit.measures import agreement
from rlaif_dpo.judges.audit.statistics import at_least, exact_interval, least_squares, logistic, sigmoid, standard_error


def test_binomial_tails() -> None:
    """P(X >= 8 of 10, .5) = (45 + 10 + 1) / 1024 = .0546875; P(X >= 2 of 3, .1) = 3 * .01 * .9 + .001 = .028."""
    assert at_least(8, 10, 0.5) == pytest.approx(56 / 1024)
    assert at_least(2, 3, 0.1) == pytest.approx(0.028)
    assert (at_least(0, 5, 0.0), at_least(1, 5, 0.0), at_least(5, 5, 1.0), at_least(6, 5, 0.5)) == (1.0, 0.0, 1.0, 0.0)
    assert at_least(600, 1200, 0.5) == pytest.approx(0.5115, abs=1e-3), "no overflow at a thousand"


def test_exact_interval() -> None:
    """Clopper & Pearson for 3 of 10: .0667 to .6525 (tables); 0 of 20: 0 to 1 - .025^(1/20) = .1684."""
    assert exact_interval(3, 10) == pytest.approx((0.06674, 0.65245), abs=1e-4)
    assert exact_interval(0, 20) == pytest.approx((0.0, 0.16843), abs=1e-4)
    assert exact_interval(20, 20) == pytest.approx((0.83157, 1.0), abs=1e-4)


def test_least_squares_by_hand() -> None:
    """y = 2 a - b exactly; with rows 1 and 2 counted twice and three times the solution stays."""
    x = np.array([[1.0, 0], [0, 1], [1, 1], [2, 1]])
    draws = np.array([[1.0, 1, 1, 1], [2, 3, 0, 1]])
    assert least_squares(x @ [2, -1], x, draws) == pytest.approx(np.array([[2, -1], [2, -1]]), abs=1e-6)


def test_logistic_by_hand() -> None:
    """One column of ones, target mean .75: log 3; the ridge .1 on 400 rows moves it by .1 log 3 / (400 * .1875) = .0015."""
    target, x = np.array([1.0, 1, 1, 0] * 100), np.ones((400, 1))
    assert logistic(target, x, np.ones((1, 400)))[0, 0] == pytest.approx(log(3), abs=0.002)


def test_the_one_step_bootstrap_is_as_wide_as_the_theory_says() -> None:
    """Standard error of the coefficient at p = .5, x = +-1, n = 400: 1 / sqrt(400 * .25) = .1."""
    rng = np.random.default_rng(0)
    x, target = rng.choice([-1.0, 1.0], size=(400, 1)), (rng.random(400) < 0.5).astype(float)
    assert standard_error(logistic(target, x, draw(400, 2000, 1))[:, 0]) == pytest.approx(0.1, rel=0.1)


def test_a_separable_fit_stays_finite() -> None:
    x = np.linspace(-2, 2, 50)[:, None]
    fit = logistic((x[:, 0] > 0).astype(float), x, draw(50, 50, 0))
    assert np.isfinite(fit).all() and fit[0, 0] > 3


def test_kappa_by_hand() -> None:
    """Gold a a b tie, judge a b b a, each pair in both orientations: agreement 2 of 4.

    Cells of the symmetrised table (sum 8): judge first 4, second 4, tie 0; gold first 3, second 3, tie 2. By chance
    (4 * 3 + 4 * 3) / 64 = .375, so kappa = (.5 - .375) / .625 = .2.
    """
    label, gold = np.array([2.0, -2, -2, 2]), np.array([1.0, 1, 0, 0.5])
    found = agreement(label, label, label, gold, draw(4, 50, 0))
    assert found["agreement"]["value"] == 0.5
    assert found["kappa"]["value"] == pytest.approx(0.2)
    assert found["accuracy"]["value"] == pytest.approx(2 / 3) and found["accuracy"]["n"] == 3


def test_calibration_by_hand() -> None:
    """p = .8 four times, right in three: confidence .8, accuracy .75, ECE .05; Brier (3 * .04 + .64) / 4 = .19."""
    label = np.array([log(4), log(4), -log(4), log(4)])
    gold = np.array([1.0, 1, 0, 0])
    found = calibrate(Labels(label[:, None], np.ones((4, 1))), label, gold, draw(4, 50, 0), list("abcd"))
    assert found.ece["value"] == pytest.approx(0.05)
    assert found.brier["value"] == pytest.approx(0.19)
    assert found.nll["value"] == pytest.approx((3 * -log(0.8) - log(0.2)) / 4)
    (only,) = found.bins
    assert (only.low, only.high, only.n, only.accuracy) == (0.8, 0.85, 4, 0.75) and only.confidence == pytest.approx(0.8)
    assert (found.temperature, found.clamp, found.proposed.temperature) == (None, None, 1.0), "four pairs are too few to fit"


def test_the_temperature_is_recovered_and_proposed() -> None:
    """Labels three times too sure, 2,000 pairs: the standard error of 1 / T is about .02 of .33."""
    rng = np.random.default_rng(5)
    true = 1.5 * rng.normal(size=2000)
    gold = (rng.random(2000) < sigmoid(true)).astype(float)
    found = calibrate(
        Labels(3 * true[:, None], np.ones((2000, 1))), 3 * true, gold, draw(2000, 200, 0), [str(n) for n in range(2000)]
    )
    assert found.temperature == pytest.approx(3.0, rel=0.15)
    assert found.proposed.temperature == found.temperature
    assert found.nll_temperature["value"] < found.nll_clamp["value"] < found.nll["value"]
    assert fit_temperature(-true, gold) is None


def test_a_clamp_is_fitted_on_the_pool_of_clamped_verdicts() -> None:
    """Two saturated verdicts a pair, one of weight 3: the label can reach 1/4 of the way back, as it does in the judge."""
    labels = Labels(np.array([[9.0, -9.0], [9.0, 9.0]]), np.array([[0.75, 0.25], [0.75, 0.25]]))
    bound = log(0.8 / 0.2)
    assert labels.pooled(clamp=0.8) == pytest.approx([bound / 2, bound])
    assert labels.pooled(temperature=2.0) == pytest.approx([2.25, 4.5])
    gold = np.array([1.0, 1, 1, 0])
    assert fit_clamp(Labels(np.full((4, 1), 30.0), np.ones((4, 1))), gold) == pytest.approx(0.75)
    assert cross_entropy(np.array([log(3)]), np.array([0.75]))[0] == pytest.approx(-0.75 * log(0.75) - 0.25 * log(0.25))
