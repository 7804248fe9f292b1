"""The toy relations of the papers and their values: order averaging, treatments, length and self-preference.

The toy judge: true gap g of standard deviation 1.5, logits g + b and g - b in the two orders, noise .5 in each.
"""

from math import log

import numpy as np
import pytest

from rlaif_dpo.bootstrap import draw
from rlaif_dpo.judges.audit import audit
from rlaif_dpo.judges.audit.calibration import Labels, calibrate, cross_entropy, fit_clamp
from rlaif_dpo.judges.audit.measures import win_rate_at_equal_length
from rlaif_dpo.judges.audit.statistics import logistic, sigmoid
from rlaif_dpo.judges.logits import average_logit
from rlaif_dpo.judges.saturation import Saturation, margin_cap
from tests.judges.audit.synthetic import SyntheticJudge, World

PAIRS = 4000


def measured(**judge: float):  # type: ignore[no-untyped-def]
    return audit(SyntheticJudge(**judge), World(PAIRS, gold="sure").items(), [], own="me", resamples=200)  # type: ignore[arg-type]


def treated(labels: np.ndarray, treatment: Saturation) -> np.ndarray:
    return np.array([treatment.treat(x) for x in labels.tolist()])


@pytest.mark.parametrize(
    ("treatment", "hard", "ece", "norm", "accuracy"),
    [
        (Saturation(), False, 0.006, 0.96, 0.976),
        (Saturation(), True, 0.166, 4.38, 0.938),
        (Saturation(clamp=(0.2, 0.8)), False, 0.092, 0.54, 0.960),
        (Saturation(clamp=(0.4, 0.6)), False, 0.209, 0.16, 0.939),
    ],
    ids=["soft", "hard", "clamp .2", "clamp .4"],
)
def test_row_1_soft_labels_keep_a_linear_reward_calibrated(treatment, hard, ece, norm, accuracy, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    """Rewards in 8 dimensions, true norm 2, 100 pairs, judge noise .5, 20 seeds: the logistic fit to each kind of label.

    papers.md (a) row 1: ECE soft .016 hard .166, clamped .092 and .209; norm ratio .96, 4.38, .54, .16; accuracy .976, .938,
    .960, .939. Its ECE of soft labels (.016) holds the sampling error of a finite test; here it is taken against the true p.
    Hard labels nearly separate the pairs, so their norm rests on the ridge: between 3 and 6. Standard errors of the means are
    below .01.
    """
    monkeypatch.setattr("rlaif_dpo.judges.audit.statistics.RIDGE", 0.01)
    found = []
    for seed in range(20):
        rng = np.random.default_rng(seed)
        true = rng.normal(size=8)
        true *= 2 / np.linalg.norm(true)
        x = rng.normal(size=(100, 8))
        labels = treated(x @ true + 0.5 * rng.normal(size=100), treatment)
        fit = logistic((labels > 0).astype(float) if hard else sigmoid(labels), x, np.ones((1, 100)))[0]
        test = rng.normal(size=(4000, 8))
        label, gold = test @ fit, sigmoid(test @ true)
        calibration = calibrate(Labels(label[:, None], np.ones((4000, 1))), label, gold, draw(4000, 2, 0), [""] * 4000)
        found.append((calibration.ece["value"], np.linalg.norm(fit) / 2, np.mean((label > 0) == (gold > 0.5))))
    mean = np.mean(found, axis=0)
    assert mean[0] == pytest.approx(ece, abs=0.02)
    assert 3 < mean[1] < 6 if hard else mean[1] == pytest.approx(norm, abs=0.02)
    assert mean[2] == pytest.approx(accuracy, abs=0.01)


def test_row_2_what_saves_a_saturated_judge_that_is_often_wrong() -> None:
    """g ~ N(0, 1), logits 5 (g + N(0, 1.5^2)), p no nearer to 0 or 1 than 1e-6: cross-entropy of the label to the true sigma(g).

    papers.md (a) row 2: raw 2.51, .1-.9 .938, .2-.8 .770, .3-.7 .698, .4-.6 .675, mean of five .759, the truth .599, verdicts
    right .686. The standard error of 100,000 pairs is .01 for raw and .002 for the others.
    """
    rng = np.random.default_rng(1)
    gap = rng.normal(size=100_000)
    five = np.clip(5 * (gap + 1.5 * rng.normal(size=(5, 100_000))), -log(1e6), log(1e6))
    gold = sigmoid(gap)

    def loss(clamp: float) -> float:
        return float(cross_entropy(Labels(five[0][:, None], np.ones((100_000, 1))).pooled(clamp=clamp), gold).mean())

    assert np.mean((five[0] > 0) == (gap > 0)) == pytest.approx(0.686, abs=0.005)
    assert loss(1.0) == pytest.approx(2.51, abs=0.04)
    assert [loss(c) for c in (0.9, 0.8, 0.7, 0.6)] == pytest.approx([0.938, 0.770, 0.698, 0.675], abs=0.006)
    mean_of_five = sigmoid(five).mean(axis=0)
    assert cross_entropy(np.log(mean_of_five) - np.log1p(-mean_of_five), gold).mean() == pytest.approx(0.759, abs=0.006)
    assert cross_entropy(gap, gold).mean() == pytest.approx(0.599, abs=0.004)
    # auto: c = E[true p of the preferred side] = .59, as near to CAI's .6 as its steps of .1 allow
    assert fit_clamp(Labels(five[0][:, None], np.ones((100_000, 1))), gold) == pytest.approx(0.59, abs=0.015)


def test_row_2_a_better_judge_wants_a_wider_clamp_and_a_calibrated_one_none() -> None:
    """Gap sd 2: verdicts right .796, and .3-.7 (.600) beats .4-.6 (.628). Calibrated (noise .5): raw .625 beats .648."""
    rng = np.random.default_rng(2)
    one = np.ones((100_000, 1))
    gap = rng.normal(size=100_000)
    sharp = Labels(5 * (2 * gap + 1.5 * rng.normal(size=100_000))[:, None], one)
    assert np.mean((sharp.pooled() > 0) == (gap > 0)) == pytest.approx(0.796, abs=0.005)
    losses = [cross_entropy(sharp.pooled(clamp=c), sigmoid(2 * gap)).mean() for c in (0.7, 0.6)]
    assert losses == pytest.approx([0.600, 0.628], abs=0.004)
    calm = Labels((gap + 0.5 * rng.normal(size=100_000))[:, None], one)
    losses = [cross_entropy(calm.pooled(clamp=c), sigmoid(gap)).mean() for c in (1.0, 0.6)]
    assert losses == pytest.approx([0.625, 0.648], abs=0.004)


def test_row_2_the_audit_proposes_as_the_relation_says() -> None:
    """On 2,000 gold labels drawn from the true p a saturated judge is treated, its fitted clamp near .6; a calm one is let be."""
    rng = np.random.default_rng(3)
    gap = rng.normal(size=2000)
    gold = (rng.random(2000) < sigmoid(gap)).astype(float)
    noise = rng.normal(size=2000)
    ids, draws, one = [str(n) for n in range(2000)], draw(2000, 300, 0), np.ones((2000, 1))
    loud, calm = 5 * (gap + 1.5 * noise), gap + 0.2 * noise
    found = calibrate(Labels(loud[:, None], one), loud, gold, draws, ids)
    assert found.clamp == pytest.approx(0.593, abs=0.03)
    assert found.temperature is not None and found.temperature > 10
    assert found.proposed != Saturation()
    assert found.nll["value"] > 2 > 0.70 > min(found.nll_clamp["value"], found.nll_temperature["value"])
    assert calibrate(Labels(calm[:, None], one), calm, gold, draws, ids).proposed == Saturation()


def test_rows_3_and_5_both_orders_restore_accuracy() -> None:
    """b = 2. One order: .5 + P(g + e < -2) = .5 + Phi(-2 / 1.58) = .603; averaged: .5 + atan(1.5 / .354) / pi = .926.

    papers.md (a): one order .601, averaged .926, bias of the label +.306 to .001; pairs both orders agree on: right in 1.000,
    20 % of all. Standard errors of 4,000 pairs: .008, .004, .004, .006.
    """
    a = measured(position=2.0)
    assert a.agreement["accuracy_one_order"]["value"] == pytest.approx(0.601, abs=0.02)
    assert a.agreement["accuracy"]["value"] == pytest.approx(0.926, abs=0.012)
    assert a.position["probability"]["value"] == pytest.approx(0.306, abs=0.012)
    assert a.position["logit"]["value"] == pytest.approx(2.0, abs=0.03)
    assert a.agreement["accuracy_consistent"]["value"] >= 0.998
    assert a.position["consistency"]["value"] == pytest.approx(0.20, abs=0.02)
    assert a.position["first_when_inconsistent"]["value"] == 1.0
    assert len(a.order_made) == pytest.approx(0.8 * PAIRS, rel=0.03)
    unmoved = measured(position=0.0)
    assert unmoved.agreement["accuracy"]["value"] == pytest.approx(a.agreement["accuracy"]["value"], abs=0.015)
    assert unmoved.position["probability"]["value"] == pytest.approx(0.001, abs=0.01)


def test_row_4_the_mean_of_probabilities_shrinks_the_mean_of_logits_does_not() -> None:
    """b = 3. Mean distance to the true p: .155 for the mean of the probabilities, .049 for that of the logits."""
    rng = np.random.default_rng(4)
    gap = 1.5 * rng.normal(size=PAIRS)
    ab, ba = gap + 3 + 0.5 * rng.normal(size=PAIRS), gap - 3 + 0.5 * rng.normal(size=PAIRS)

    def distance(orders: str) -> float:
        labels = np.array([average_logit(x, y, orders) for x, y in zip(ab, ba, strict=True)])
        return float(np.abs(sigmoid(labels) - sigmoid(gap)).mean())

    assert distance("probability") == pytest.approx(0.155, abs=0.005)
    assert distance("logit") == pytest.approx(0.049, abs=0.002)


def test_row_12_equal_replies_are_equal_at_equal_length() -> None:
    """Equal quality, P(win) = sigma(.8 tanh d), d ~ N(1.2, 1): raw .622; at equal length .50, coefficient .8.

    Standard errors of 5,000: .007 raw; at d = 0, in the thin end of the data, .02; .03 for the coefficient.
    """
    rng = np.random.default_rng(12)
    length = np.tanh(rng.normal(size=5000) + 1.2)
    wins = (rng.random(5000) < sigmoid(0.8 * length)).astype(float)
    rate, coefficient = win_rate_at_equal_length(wins, length, draw(5000, 200, 0))
    assert wins.mean() == pytest.approx(0.622, abs=0.02)
    assert rate["value"] == pytest.approx(0.501, abs=0.04)
    assert coefficient["value"] == pytest.approx(0.8, abs=0.12)
    assert rate["low"] < 0.5 < rate["high"]


def test_row_20_self_preference_shows_at_gold_ties_and_only_with_the_own_judge() -> None:
    """b_self = 1 at equal quality: own text wins in Phi(1 / .354) = .998 of pairs; another judge's labels stand at one half."""
    items = World(1000, ties=0.5).items()
    own = audit(SyntheticJudge(own=1.0), items, [], own="me", resamples=200)
    other = audit(SyntheticJudge(), items, [], own="me", resamples=200)
    assert own.own["win_rate_at_gold_tie"]["value"] == pytest.approx(0.998, abs=0.01)
    assert other.own["win_rate_at_gold_tie"]["low"] < 0.5 < other.own["win_rate_at_gold_tie"]["high"]
    assert own.own["excess_over_gold"]["low"] > 0.1
    assert abs(other.own["excess_over_gold"]["value"]) < 0.06


def test_reference_points_of_the_clamp() -> None:
    """papers.md (c): clamp (.4, .6) maps .85 to .6 and caps |h| at .4054651; (.2, .8) caps it at 1.3862944."""
    treat = Saturation(clamp=(0.4, 0.6)).treat
    assert sigmoid(np.array(treat(log(0.85 / 0.15)))) == pytest.approx(0.6)
    assert margin_cap((0.4, 0.6), 1.0) == pytest.approx(0.4054651)
    assert margin_cap((0.2, 0.8), 1.0) == pytest.approx(1.3862944)
