"""The equations of PPO against numbers worked out by hand, in float64.

The episode of most tests has three tokens: log pi = (-1, -2, -.5), log pi_ref = (-1.2, -1.5, -.7), so x = (.2, -.5, .2).
"""

import pytest
import torch
from torch import Tensor

from rlaif_dpo.train import ppo_math as math

LOGP = torch.tensor([[-1.0, -2.0, -0.5]], dtype=torch.float64)
REF = torch.tensor([[-1.2, -1.5, -0.7]], dtype=torch.float64)
ALL = torch.ones(1, 3, dtype=torch.bool)


def row(*values: float) -> Tensor:
    return torch.tensor([values], dtype=torch.float64)


def close(got: Tensor, expected: Tensor, tolerance: float = 1e-8) -> None:
    torch.testing.assert_close(got, expected, atol=tolerance, rtol=0)


def test_k1_is_the_log_ratio() -> None:
    """(.2, -.5, .2), sum -.1: an estimate of KL that is negative on this episode."""
    k1 = math.kl_estimate(LOGP, REF, "k1")
    close(k1, row(0.2, -0.5, 0.2))
    assert k1.sum().item() == pytest.approx(-0.1)


def test_k3_is_never_negative() -> None:
    """e^-.2 - 1 + .2 = .01873075, e^.5 - 1 - .5 = .14872127; sum .18618278."""
    k3 = math.kl_estimate(LOGP, REF, "k3")
    close(k3, row(0.01873075, 0.14872127, 0.01873075))
    assert k3.sum().item() == pytest.approx(0.18618278, abs=1e-8)
    wide = math.kl_estimate(torch.linspace(-20, 0, 41), torch.full((41,), -10.0), "k3")
    assert (wide >= 0).all()


PI = torch.tensor([0.5, 0.3, 0.15, 0.05], dtype=torch.float64)
PI_REF = torch.tensor([0.4, 0.3, 0.2, 0.1], dtype=torch.float64)


@pytest.mark.parametrize("estimator", ["k1", "k3"])
def test_both_estimators_have_the_kl_as_their_mean(estimator: math.KlEstimator) -> None:
    """KL = .5 ln(.5/.4) + .3 ln 1 + .15 ln(.15/.2) + .05 ln(.05/.1) = .111572 - .043152 - .034657 = .033762."""
    mean = (PI * math.kl_estimate(PI.log(), PI_REF.log(), estimator)).sum()
    assert mean.item() == pytest.approx((PI * (PI / PI_REF).log()).sum().item(), abs=1e-12)
    assert mean.item() == pytest.approx(0.033762, abs=1e-6)


def test_as_a_penalty_only_k1_pulls_to_the_reference_as_kl_does() -> None:
    """A penalty k(y) moves logits z by -sum_y pi(y) k(y) dlog pi(y)/dz. With k1 that is the gradient of KL(pi || pi_ref); k3 adds
    sum_y pi_ref(y) dlog pi(y)/dz, which is minus the gradient of KL(pi_ref || pi), so that near the reference little is left.
    """
    logits = PI.log().clone().requires_grad_()
    logp = torch.log_softmax(logits, 0)

    def gradient(loss: Tensor) -> Tensor:
        return torch.autograd.grad(loss, logits, retain_graph=True)[0]

    def penalty(estimator: math.KlEstimator) -> Tensor:
        return gradient((PI * math.kl_estimate(PI.log(), PI_REF.log(), estimator) * logp).sum())

    forward = gradient((logp.exp() * (logp - PI_REF.log())).sum())
    backward = gradient((PI_REF * (PI_REF.log() - logp)).sum())
    close(penalty("k1"), forward, 1e-12)
    close(penalty("k3"), forward - backward, 1e-12)
    assert penalty("k3").norm() < 0.3 * penalty("k1").norm()


def test_rewards_are_the_penalty_and_at_the_end_the_score() -> None:
    """-.05 (.2, -.5, .2) + (0, 0, 1) = (-.01, .025, .99)."""
    rewards = math.token_rewards(math.kl_estimate(LOGP, REF, "k1"), torch.tensor([1.0], dtype=torch.float64), ALL, 0.05)
    close(rewards, row(-0.01, 0.025, 0.99))


def test_gae() -> None:
    """V = (.2, .4, .6), gamma 1, lambda .95, backwards: .99 - .6 = .39; .025 + .6 - .4 + .95 * .39 = .5955;
    -.01 + .4 - .2 + .95 * .5955 = .755725. Returns add V: (.955725, .9955, .99).
    """
    advantages, returns = math.gae(row(-0.01, 0.025, 0.99), row(0.2, 0.4, 0.6), ALL, 1.0, 0.95)
    close(advantages, row(0.755725, 0.5955, 0.39), 1e-12)
    close(returns, row(0.955725, 0.9955, 0.99), 1e-12)


def test_gae_with_a_discount() -> None:
    """gamma .9, lambda .5: .39; .025 + .9 * .6 - .4 + .45 * .39 = .3405; -.01 + .9 * .4 - .2 + .45 * .3405 = .303225."""
    advantages, _ = math.gae(row(-0.01, 0.025, 0.99), row(0.2, 0.4, 0.6), ALL, 0.9, 0.5)
    close(advantages, row(0.303225, 0.3405, 0.39), 1e-12)


def test_padding_changes_nothing() -> None:
    """A batch of two answers, of 3 and of 1 token, gives what each gives alone, whatever stands in the padding."""
    mask = torch.tensor([[True, True, True], [True, False, False]])
    kl = torch.cat([row(0.2, -0.5, 0.2), row(0.4, 9.0, 9.0)])
    values = torch.cat([row(0.2, 0.4, 0.6), row(0.3, 7.0, 7.0)])
    rewards = math.token_rewards(kl, torch.tensor([1.0, 2.0], dtype=torch.float64), mask, 0.05)
    close(rewards, torch.cat([row(-0.01, 0.025, 0.99), row(1.98, 0.0, 0.0)]), 1e-12)
    advantages, returns = math.gae(rewards, values, mask, 1.0, 0.95)
    close(advantages, torch.cat([row(0.755725, 0.5955, 0.39), row(1.68, 0.0, 0.0)]), 1e-12)
    close(returns, torch.cat([row(0.955725, 0.9955, 0.99), row(1.98, 0.0, 0.0)]), 1e-12)


def test_whitening() -> None:
    """(1, 2, 6): mean 3, variance (4 + 1 + 9) / 3 = 14/3, deviation 2.160247; (-2, -1, 3) / 2.160247."""
    whitened = math.whiten(torch.tensor([1.0, 2.0, 6.0], dtype=torch.float64))
    close(whitened, torch.tensor([-0.9258201, -0.4629100, 1.3887301], dtype=torch.float64), 1e-6)
    assert math.whiten(torch.full((3,), 0.7)).tolist() == [0.0, 0.0, 0.0]


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss", "gradient"), [(1.5, 1, -1.2, 0), (1.5, -1, 1.5, 1.5), (0.5, 1, -0.5, -0.5), (0.5, -1, 0.8, 0)]
)
def test_the_clipped_policy_loss(ratio: float, advantage: float, loss: float, gradient: float) -> None:
    """eps = .2: a ratio of 1.5 counts as 1.2 where the advantage is positive, so it is pushed no further: no gradient.
    Where it is negative it counts in full, and dloss/dlog pi = -ratio A. At a ratio of .5 it is the other way round.
    """
    logp = torch.tensor([ratio], dtype=torch.float64).log().requires_grad_()
    got = math.policy_loss(logp, torch.zeros(1, dtype=torch.float64), torch.tensor([float(advantage)], dtype=torch.float64), 0.2)
    (slope,) = torch.autograd.grad(got.sum(), logp)
    assert got.item() == pytest.approx(loss, abs=1e-12)
    assert slope.item() == pytest.approx(gradient, abs=1e-12)


@pytest.mark.parametrize(
    ("value", "old", "target", "loss"), [(1.0, 0.5, 0.6, 0.08), (0.5, 1.0, 0.5, 0.045), (0.6, 0.5, 1.0, 0.08)]
)
def test_the_clipped_value_loss(value: float, old: float, target: float, loss: float) -> None:
    """eps = .2. V 1, old .5: clipped .7; max((1 - .6)^2, (.7 - .6)^2) / 2 = .08. V .5, old 1: clipped .8;
    max(0, .3^2) / 2 = .045, though V is right: it came too far in one update. V .6, old .5: not clipped; (.6 - 1)^2 / 2 = .08.
    """
    got = math.value_loss(*(torch.tensor([x], dtype=torch.float64) for x in (value, old, target)), 0.2)
    assert got.item() == pytest.approx(loss, abs=1e-12)


def test_the_clip_fraction() -> None:
    """Ratios .79, .81, 1.19, 1.21 with eps = .2: the first and the last are out."""
    ratios = torch.tensor([0.79, 0.81, 1.19, 1.21], dtype=torch.float64)
    assert math.clip_fraction(ratios.log(), torch.zeros(4), 0.2).tolist() == [1, 0, 0, 1]


def test_explained_variance() -> None:
    """V (1, 2, 3), R (1, 2, 6): Var(R) = 14/3, Var(R - V) = Var(0, 0, 3) = 2, so 1 - 6/14 = .571429."""
    values, returns = (torch.tensor(x, dtype=torch.float64) for x in ((1.0, 2.0, 3.0), (1.0, 2.0, 6.0)))
    assert math.explained_variance(values, returns) == pytest.approx(0.571429, abs=1e-6)
    assert math.explained_variance(returns, returns) == 1.0
    assert math.explained_variance(torch.zeros(3), torch.ones(3)) == 0.0


@pytest.mark.parametrize(("kl", "beta"), [(12.0, 0.051), (3.0, 0.049), (6.6, 0.0505), (6.0, 0.05)])
def test_the_adaptive_coefficient(kl: float, beta: float) -> None:
    """beta .05, target 6: 12 / 6 - 1 = 1 is clipped to .2, .05 (1 + .1 * .2) = .051; 3 / 6 - 1 = -.5 to -.2; 6.6 gives .1."""
    assert math.adapt_beta(0.05, kl, 6.0) == pytest.approx(beta, abs=1e-12)
