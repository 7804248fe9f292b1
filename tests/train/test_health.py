"""The verdict, on made-up curves and scores."""

import math
from typing import Any

import pytest

from rlaif_dpo.train.health import PairScore, health, wilson

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
