"""The verdict, on made-up curves and scores."""

import math
from typing import Any

import pytest

from rlaif_dpo.train.health import PairScore, health, mean_interval, wilson

FALLING = [{"loss": 0.693 - 0.01 * step} for step in range(20)]


def scores(margin: float = 5.0, chosen: float = -1.0, n: int = 20, tokens: tuple[int, int] = (20, 20)) -> list[PairScore]:
    return [PairScore(chosen, chosen - margin, *tokens, p=0.8) for _ in range(n)]


def check(verdict: dict[str, Any], name: str) -> dict[str, Any]:
    return next(check for check in verdict["checks"] if check["name"] == name)


def test_a_healthy_run() -> None:
    """Margin .1 * 5 = .5; drift -1 / 20 tokens = -.05 nats a token; 20 of 20 pairs right."""
    verdict = health(FALLING, scores(), 0.1, "held-out")
    assert verdict["status"] == "healthy"
    assert verdict["verdict"] == "DPO is healthy: the reward margin rose from 0 to 0.500 on 20 held-out pairs."
    assert all(check["ok"] for check in verdict["checks"])
    assert set(verdict["checks"][0]) == {"name", "value", "low", "high", "ok", "sentence"}
    assert check(verdict, "chosen drift")["value"] == pytest.approx(-0.05)
    assert check(verdict, "reward accuracy")["value"] == 1.0
    # Mean of the first tenth (.693, .683) less mean of the last (.513, .503): .18.
    assert check(verdict, "loss fell by")["value"] == pytest.approx(0.18)


def test_displaced_likelihood_is_a_warning_and_collapse_is_broken() -> None:
    """-20 nats over 20 tokens: -1 a token, below -.5; -60 over 20: -3, below -2."""
    warned = health(FALLING, scores(chosen=-20.0), 0.1, "held-out")
    assert warned["status"] == "warning" and "lost 1.000 nats a token" in warned["verdict"]
    assert health(FALLING, scores(chosen=-60.0), 0.1, "held-out")["status"] == "broken"


def test_a_margin_that_fell_is_broken_and_one_that_barely_rose_a_warning() -> None:
    broken = health(FALLING, scores(margin=-3.0), 0.1, "held-out")
    assert broken["status"] == "broken" and "from 0 to -0.300" in broken["verdict"]
    barely = health(FALLING, scores(margin=0.05), 0.1, "held-out")
    assert barely["status"] == "warning" and "next to nothing" in barely["verdict"]


def test_a_margin_a_hair_below_zero_on_few_pairs_is_not_broken() -> None:
    """Rewards .1 * (-1, .9, 0): mean -.00333, s.d. .09504, half 4.30 * .09504 / sqrt 3 = .236: 0 lies well inside."""
    few = [score for margin in (-1.0, 0.9, 0.0) for score in scores(margin=margin, n=1)]
    verdict = health(FALLING, few, 0.1, "held-out")
    assert verdict["status"] == "warning"
    margin = check(verdict, "margin")
    assert (margin["value"], margin["ok"]) == (pytest.approx(-0.00333, abs=1e-5), False)
    assert margin["sentence"] == (
        "The reward margin is -0.003 on 3 held-out pairs, 95 % interval -0.239 to 0.233: too few to tell whether it rose; "
        "raise prompts.pairs."
    )


def test_a_margin_that_may_be_zero_is_not_healthy_either() -> None:
    """Rewards .1 * (3, -1, 1, 5): mean .2, s.d. .258, half 3.18 * .258 / 2 = .411: from -.211 to .611."""
    few = [score for margin in (3.0, -1.0, 1.0, 5.0) for score in scores(margin=margin, n=1)]
    verdict = health(FALLING, few, 0.1, "held-out")
    assert verdict["status"] == "warning" and "95 % interval -0.211 to 0.611: too few to tell" in verdict["verdict"]


@pytest.mark.parametrize("margin", [-4.0, 4.0])
def test_one_pair_tells_nothing(margin: float) -> None:
    verdict = health(FALLING, scores(margin=margin, n=1), 0.1, "held-out")
    assert verdict["status"] == "warning"
    assert f"is {margin / 10:.3f} on 1 held-out pair: too few to tell" in verdict["verdict"]


def test_with_pairs_enough_the_same_hair_is_a_verdict() -> None:
    """Control, half 1.98 * .05 / 20 = .005: 400 rewards of .1 * (-1 +- .5) fell; .1 * (.02 +- .5) is next to nothing."""
    fell = scores(margin=-1.5, n=200) + scores(margin=-0.5, n=200)
    assert health(FALLING, fell, 0.1, "held-out")["status"] == "broken"
    nothing = health(FALLING, scores(margin=-0.48, n=200) + scores(margin=0.52, n=200), 0.1, "held-out")
    assert nothing["status"] == "warning" and "next to nothing" in nothing["verdict"]


def test_the_interval_of_a_mean() -> None:
    """1, 2, 3, 4: mean 2.5, s.d. 1.29099, three degrees of freedom: 3.18 * 1.29099 / 2 = 2.0527."""
    assert mean_interval([1.0, 2.0, 3.0, 4.0]) == pytest.approx((0.4473, 4.5527), abs=1e-4)
    assert mean_interval([7.0]) == (-math.inf, math.inf)
    # between two entries of the table the wider one: 8 degrees of freedom serve for 9
    assert mean_interval([0.0, 1.0] * 5)[1] == pytest.approx(0.5 + 2.31 * 0.52705 / math.sqrt(10), abs=1e-4)


def test_a_loss_that_is_not_a_number_is_broken() -> None:
    for curve, pairs in (([{"loss": 0.69}, {"loss": None}], scores()), (FALLING, scores(margin=math.nan))):
        verdict = health(curve, pairs, 0.1, "training")
        assert verdict["status"] == "broken" and "lower lr" in verdict["verdict"]


def test_a_loss_that_did_not_fall_is_a_warning() -> None:
    verdict = health([{"loss": 0.69}] * 5, scores(), 0.1, "held-out")
    assert verdict["status"] == "warning" and not check(verdict, "loss fell by")["ok"]


def test_longer_chosen_answers_are_a_warning() -> None:
    verdict = health(FALLING, scores(tokens=(30, 20)), 0.1, "held-out")
    assert verdict["status"] == "warning" and "1.50 times the tokens" in verdict["verdict"]


def test_accuracy_is_said_with_its_n_and_interval() -> None:
    """8 of 20 right: Wilson's interval is (.219, .613), which holds .5, so it is a warning and not broken."""
    mixed = scores(margin=9.0, n=8) + scores(margin=-1.0, n=12)
    verdict = health(FALLING, mixed, 0.1, "held-out")
    accuracy = check(verdict, "reward accuracy")
    assert (accuracy["value"], accuracy["ok"]) == (0.4, False)
    assert accuracy["sentence"].startswith("8 of 20 held-out pairs (40%, 95 % interval 22% to 61%")
    assert verdict["status"] == "warning"


def test_wilson() -> None:
    """8 of 20: middle (.4 + 1.9208 / 20) / (1 + 3.8416 / 20) = .416114, half .197358."""
    assert wilson(8, 20) == pytest.approx((0.21880, 0.61342), abs=1e-4)
