from math import inf

import pytest

from rlaif_dpo.judges.logits import log_mean_exp, log_sigmoid, logit, pool, sigmoid
from rlaif_dpo.judges.saturation import Saturation, cap_sentence, margin_cap


def test_the_cap_of_a_clamp():
    """logit(.6) = .4054651, so .85 and more become .6, and at beta .1 the margin ends at 4.0547 nats; logit(.8) = 1.3862944."""
    treat = Saturation(clamp=(0.4, 0.6)).treat
    assert sigmoid(treat(logit(0.85))) == pytest.approx(0.6) and treat(-9) == pytest.approx(-0.4054651)
    assert treat(0.2) == pytest.approx(0.2)
    assert Saturation(clamp=(0.2, 0.8)).treat(9) == pytest.approx(1.3862944)
    assert margin_cap((0.4, 0.6), 0.1) == pytest.approx(4.0546511) and margin_cap((0.2, 0.8), 0.5) == pytest.approx(2.7725887)
    assert "to 4.05 nats at the most" in cap_sentence((0.4, 0.6), 0.1)
    assert margin_cap((0.0, 1.0), 0.1) == inf and "nothing but" in cap_sentence((0.0, 1.0), 0.1)


def test_temperature_first_then_the_clamp():
    """Logit 4 over 2 is 2, p = .8808, above .85: held there. Without a treatment 1,000 stays 1,000."""
    both = Saturation(temperature=2.0, clamp=(0.15, 0.85))
    assert sigmoid(both.treat(4)) == pytest.approx(0.85) and both.treat(2) == pytest.approx(1)
    assert Saturation().treat(1000) == 1000 and Saturation().treat(-1000) == -1000


def test_logits_at_the_ends():
    """log s(-800) = -800; a p of exactly 1 counts as 1 - 1e-9, whose logit is 20.7."""
    assert log_sigmoid(-800) == pytest.approx(-800) and log_sigmoid(800) == 0
    assert logit(1.0) == pytest.approx(20.723, abs=1e-3) == -logit(0.0)
    assert log_mean_exp([-1000, -1000]) == pytest.approx(-1000)
    assert pool([(1.0, 2.0), (3.0, -1.0)]) == pytest.approx(-0.25) and pool([(0.0, 2.0)]) is None and pool([]) is None
