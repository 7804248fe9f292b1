"""The numbers of a reward card, on made-up scores."""

from math import log

import pytest

from rlaif_dpo.train.reward_card import (
    ScoredPair,
    calibration,
    card_markdown,
    expected_calibration_error,
    length_correlation,
    reward_card,
)


def pair(gap: float, p: float, tokens: tuple[int, int] = (10, 10)) -> ScoredPair:
    return ScoredPair(gap / 2, -gap / 2, *tokens, p=p)


def turned(pair: ScoredPair) -> ScoredPair:
    return ScoredPair(pair.rejected, pair.chosen, pair.rejected_tokens, pair.chosen_tokens, 1 - pair.p)


def ece(pairs: list[ScoredPair]) -> float:
    return expected_calibration_error(calibration(pairs))


def test_calibration_error_against_soft_labels() -> None:
    """gap ln 3 is a confidence of .75: right where p = .75. gap ln 9 is .9, and p = .6 is off by .3; the mean of both is .15.
    gap -ln 3 prefers the other answer by .75, with which the judge agrees by 1 - .25.
    """
    assert ece([pair(log(3), 0.75)]) == pytest.approx(0.0, abs=1e-12)
    assert ece([pair(log(9), 0.6)]) == pytest.approx(0.3)
    assert ece([pair(log(3), 0.75), pair(log(9), 0.6)]) == pytest.approx(0.15)
    assert ece([pair(-log(3), 0.25)]) == pytest.approx(0.0, abs=1e-12)


def test_within_a_bin_errors_average_out() -> None:
    """Two pairs of confidence .76 with hard labels, one right, one wrong: agreement .5, error .26, in one bin of 2."""
    gap = log(0.76 / 0.24)
    (only,) = calibration([pair(gap, 1.0), pair(gap, 0.0)])
    assert (only.pairs, only.agreement) == (2, 0.5)
    assert only.confidence == pytest.approx(0.76)
    assert ece([pair(gap, 1.0), pair(gap, 0.0)]) == pytest.approx(0.26)


def test_which_answer_stands_first_does_not_matter() -> None:
    pairs = [pair(0.5, 0.7, (12, 9)), pair(-1.3, 0.6, (7, 11)), pair(2.0, 0.9, (20, 8))]
    other = [pairs[0], turned(pairs[1]), turned(pairs[2])]
    assert ece(other) == pytest.approx(ece(pairs))
    assert length_correlation([p.gap for p in other], other) == pytest.approx(length_correlation([p.gap for p in pairs], pairs))


def test_length_correlation() -> None:
    """Gaps (1, 2), lengths (+10, -10): (10 - 20) / sqrt(5 * 200) = -.316228. Gaps in proportion to lengths give 1."""
    pairs = [pair(1, 0.7, (20, 10)), pair(2, 0.7, (10, 20))]
    assert length_correlation([1, 2], pairs) == pytest.approx(-0.316228, abs=1e-6)
    assert length_correlation([3, -3], pairs) == pytest.approx(1.0)
    assert length_correlation([1.0], [pair(1, 0.7)]) == 0.0


def test_the_card() -> None:
    """20 pairs of gap ln 4 and p = .8, as good as can be: loss = entropy of the label = -.8 ln .8 - .2 ln .2 = .500402."""
    card = reward_card([pair(log(4), 0.8)] * 20, "held-out", 180)
    assert card["status"] == "healthy"
    assert card["accuracy"] == pytest.approx({"value": 1.0, "low": 0.8389, "high": 1.0}, abs=1e-4)
    assert card["expected_accuracy"] == pytest.approx(0.8)
    assert card["loss"] == pytest.approx(0.500402, abs=1e-6)
    assert card["label_entropy"] == pytest.approx(0.500402, abs=1e-6)
    assert card["scores"] == pytest.approx({"mean": 0.0, "std": log(2), "chosen": log(2), "rejected": -log(2)})
    page = card_markdown(card)
    assert "20 of 20 held-out pairs" in page and "| accuracy | 100.0% (95 % interval 83.9% to 100.0%) |" in page


def test_what_a_card_warns_of() -> None:
    """12 of 20 right: Wilson's interval holds .5. None of 20: it lies below. Hard gaps on soft labels: off by about .3."""
    unsure = reward_card([pair(1, 0.73)] * 12 + [pair(-1, 0.73)] * 8, "held-out", 80)
    assert unsure["status"] == "warning" and "not shown to be better than chance" in unsure["verdict"]
    assert reward_card([pair(-1, 0.73)] * 20, "held-out", 80)["status"] == "broken"
    bold = reward_card([pair(9, 0.7)] * 20, "held-out", 80)
    assert bold["status"] == "warning" and "off by 0.300" in bold["verdict"]
    lengths = reward_card([pair(log(4), 0.8, (20, 10))] * 20, "held-out", 80)
    assert lengths["status"] == "warning" and "may be length" in lengths["verdict"]
    lost = reward_card([pair(float("nan"), 0.8)], "held-out", 80)
    assert lost["status"] == "broken" and "lower lr" in card_markdown(lost)
