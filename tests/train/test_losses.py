"""The losses against numbers worked out by hand, in float64.

The pair of most tests: log pi (w, l) = (-10, -14), log pi_ref = (-11, -13), beta = .1. So
delta = (-10 + 11) - (-14 + 13) = 2, h = .1 * 2 = .2, sigma(.2) = .549833997.
"""

from collections.abc import Callable
from itertools import combinations
from math import log

import pytest
import torch
from torch import Tensor

from rlaif_dpo.train import losses

BETA = 0.1


def at_the_pair(loss: Callable[[Tensor], Tensor]) -> tuple[float, float, float]:
    """The loss at the pair and its gradients with respect to log pi_w and log pi_l."""
    policy = torch.tensor([-10.0, -14.0], dtype=torch.float64, requires_grad=True)
    delta = (policy[0] + 11.0) - (policy[1] + 13.0)
    value = loss(delta.reshape(1)).sum()
    (gradient,) = torch.autograd.grad(value, policy)
    return value.item(), gradient[0].item(), gradient[1].item()


def probability(p: float) -> Tensor:
    return torch.tensor([p], dtype=torch.float64)


def test_hard_dpo() -> None:
    """-log sigma(.2) = .5981388693815918; dL/dlog pi_w = -.1 (1 - .549833997) = -.0450166003, and + that for l."""
    value, chosen, rejected = at_the_pair(lambda delta: losses.hard_dpo(delta, BETA))
    assert value == pytest.approx(0.5981388693815918, abs=1e-12)
    assert chosen == pytest.approx(-0.04501660026875222, abs=1e-12)
    assert rejected == pytest.approx(0.04501660026875222, abs=1e-12)


def test_at_the_start_the_loss_is_ln2_and_the_gradient_half_beta() -> None:
    """delta = 0: -log sigma(0) = ln 2, gradient beta (sigma(0) - 1) = -beta / 2."""
    delta = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    value = losses.hard_dpo(delta, BETA).sum()
    (gradient,) = torch.autograd.grad(value, delta)
    assert value.item() == pytest.approx(log(2), abs=1e-12)
    assert gradient.item() == pytest.approx(-BETA / 2, abs=1e-12)


@pytest.mark.parametrize(
    ("p", "value", "gradient"),
    [
        (0.9, 0.618138869, -0.0350166003),
        (0.7, 0.658138869, -0.0150166003),
        (0.6, 0.678138869, -0.0050166003),
        (0.5, 0.698138869, 0.0049833997),
    ],
)
def test_soft_dpo(p: float, value: float, gradient: float) -> None:
    """L(p) = L(1) + (1 - p) h, so .9 gives .598138869 + .1 * .2; gradient beta (sigma(h) - p) = .1 (.549833997 - .9)."""
    got, chosen, rejected = at_the_pair(lambda delta: losses.soft_dpo(delta, probability(p), BETA))
    assert got == pytest.approx(value, abs=1e-8)
    assert chosen == pytest.approx(gradient, abs=1e-9)
    assert rejected == pytest.approx(-gradient, abs=1e-9)


@pytest.mark.parametrize(("p", "optimum"), [(0.9, 2.197225), (0.7, 0.847298), (0.6, 0.405465), (0.5, 0.0)])
def test_soft_dpo_stops_at_the_logit_of_p(p: float, optimum: float) -> None:
    """The gradient beta (sigma(h) - p) is 0 at h = logit(p) = ln(p / (1 - p)); .9 gives ln 9 = 2.197225."""
    delta = losses.margin_cap(probability(p), BETA).requires_grad_()
    (gradient,) = torch.autograd.grad(losses.soft_dpo(delta, probability(p), BETA).sum(), delta)
    assert BETA * delta.item() == pytest.approx(optimum, abs=1e-6)
    assert gradient.item() == pytest.approx(0.0, abs=1e-15)


def test_the_margin_cap_of_a_clamped_label() -> None:
    """Labels clamped at .6 with beta .1 cap the margin at ln(1.5) / .1 = 4.0546511 nats."""
    assert losses.margin_cap(probability(0.6), BETA).item() == pytest.approx(4.0546511, abs=1e-6)


@pytest.mark.parametrize(
    ("p", "value", "gradient"), [(0.9, 0.616344, -0.036807), (0.7, 0.653947, -0.019200), (0.6, 0.673347, -0.009800)]
)
def test_gdpo(p: float, value: float, gradient: float) -> None:
    """-log sigma(.8 * .2) = .616344 at p = .9; gradient -.1 * .8 * sigma(-.16) = -.08 * .460085 = -.036807."""
    got, chosen, rejected = at_the_pair(lambda delta: losses.gdpo(delta, probability(p), BETA))
    assert got == pytest.approx(value, abs=1e-6)
    assert chosen == pytest.approx(gradient, abs=1e-6)
    assert rejected == pytest.approx(-gradient, abs=1e-6)


def test_gdpo_learns_nothing_from_a_tie() -> None:
    """p = 1/2 makes the argument 0 for every h: ln 2 and gradient exactly 0."""
    value, chosen, rejected = at_the_pair(lambda delta: losses.gdpo(delta, probability(0.5), BETA))
    assert value == pytest.approx(log(2), abs=1e-15)
    assert chosen == rejected == 0.0


@pytest.mark.parametrize(
    ("noise", "value", "gradient"), [(0.1, 0.573139, -0.057517), (0.3, 0.448139, -0.120017), (0.4, 0.198139, -0.245017)]
)
def test_rdpo(noise: float, value: float, gradient: float) -> None:
    """L = L(h) - eps h / (1 - 2 eps): .598139 - .1 * .2 / .8 = .573139; gradient -.1 (.450166 + .1 / .8) = -.057517."""
    got, chosen, rejected = at_the_pair(lambda delta: losses.rdpo(delta, BETA, noise))
    assert got == pytest.approx(value, abs=1e-6)
    assert chosen == pytest.approx(gradient, abs=1e-6)
    assert rejected == pytest.approx(-gradient, abs=1e-6)


@pytest.mark.parametrize("noise", [0.1, 0.3, 0.4])
def test_rdpo_is_unbiased(noise: float) -> None:
    """A label is right with 1 - eps: (1 - eps) rDPO(w, l) + eps rDPO(l, w) = DPO(w, l)."""
    delta = torch.linspace(-40, 40, 9, dtype=torch.float64)
    mean = (1 - noise) * losses.rdpo(delta, BETA, noise) + noise * losses.rdpo(-delta, BETA, noise)
    torch.testing.assert_close(mean, losses.hard_dpo(delta, BETA), atol=1e-10, rtol=0)


def test_ipo() -> None:
    """tau = .1, p = 1: the target is 1 / .2 = 5, (2 - 5)^2 = 9, gradient 2 (2 - 5) = -6."""
    value, chosen, rejected = at_the_pair(lambda delta: losses.ipo(delta, probability(1.0), 0.1))
    assert (value, chosen, rejected) == pytest.approx((9.0, -6.0, 6.0), abs=1e-12)


@pytest.mark.parametrize(("p", "target"), [(0.9, 4.0), (0.7, 2.0), (0.6, 1.0), (0.5, 0.0)])
def test_ipo_with_a_soft_target(p: float, target: float) -> None:
    """The optimum is (2p - 1) / (2 tau); p = .9 and tau = .1 give .8 / .2 = 4."""
    delta = torch.tensor([target], dtype=torch.float64, requires_grad=True)
    value = losses.ipo(delta, probability(p), 0.1).sum()
    (gradient,) = torch.autograd.grad(value, delta)
    assert value.item() == pytest.approx(0.0, abs=1e-20)
    assert gradient.item() == pytest.approx(0.0, abs=1e-10)


def test_the_nll_term() -> None:
    """log pi_w = -10 over 20 tokens: .5 a token; with weight 1 the whole loss is .5981389 + .5 = 1.0981389."""
    term = losses.nll(torch.tensor([-10.0], dtype=torch.float64), torch.tensor([20])).item()
    value, _, _ = at_the_pair(lambda delta: losses.hard_dpo(delta, BETA))
    assert term == pytest.approx(0.5, abs=1e-12)
    assert value + term == pytest.approx(1.0981389, abs=1e-6)


def test_certain_labels_make_every_soft_loss_the_hard_one() -> None:
    delta = torch.linspace(-50, 50, 11, dtype=torch.float64)
    ones = torch.ones_like(delta)
    for loss in (losses.soft_dpo(delta, ones, BETA), losses.gdpo(delta, ones, BETA), losses.rdpo(delta, BETA, 0.0)):
        torch.testing.assert_close(loss, losses.hard_dpo(delta, BETA), atol=1e-12, rtol=0)


def test_swapping_the_answers_and_the_label_changes_nothing() -> None:
    """(w, l, p) and (l, w, 1 - p) are the same judgment."""
    delta = torch.linspace(-50, 50, 11, dtype=torch.float64)
    p = torch.linspace(0.05, 0.95, 11, dtype=torch.float64)
    torch.testing.assert_close(losses.soft_dpo(delta, p, BETA), losses.soft_dpo(-delta, 1 - p, BETA), atol=1e-12, rtol=0)
    torch.testing.assert_close(losses.gdpo(delta, p, BETA), losses.gdpo(-delta, 1 - p, BETA), atol=1e-12, rtol=0)
    torch.testing.assert_close(losses.ipo(delta, p, BETA), losses.ipo(-delta, 1 - p, BETA), atol=1e-12, rtol=0)


def test_the_losses_stay_finite_far_out() -> None:
    delta = torch.tensor([-1e5, 1e5], dtype=torch.float32)
    p = torch.tensor([0.7, 0.7])
    for name in ("soft", "gdpo", "rdpo", "hard", "ipo"):
        assert torch.isfinite(losses.preference_loss(name, delta, p, BETA, 0.1)).all()  # type: ignore[arg-type]


REFERENCE = torch.tensor([0.4, 0.3, 0.2, 0.1], dtype=torch.float64)
REWARD = torch.tensor([0.0, 1.0, 2.0, 3.0], dtype=torch.float64)
PAIRS = torch.tensor(list(combinations(range(4), 2)))


def pair_margins(logits: Tensor) -> Tensor:
    """(6,) delta of each pair (worse, better) of the tabular world, the better one as chosen."""
    ratio = torch.log_softmax(logits, 0) - REFERENCE.log()
    return ratio[PAIRS[:, 1]] - ratio[PAIRS[:, 0]]


def minimised(loss: Callable[[Tensor], Tensor], steps: int) -> tuple[Tensor, float]:
    """The policy (4,) and the summed loss after `steps` of L-BFGS from the reference."""
    logits = REFERENCE.log().clone().requires_grad_()
    optimiser = torch.optim.LBFGS(
        [logits], max_iter=steps, tolerance_grad=1e-14, tolerance_change=0, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        optimiser.zero_grad()
        total = loss(pair_margins(logits)).sum()
        total.backward()
        return total

    optimiser.step(closure)
    return torch.softmax(logits, 0).detach(), loss(pair_margins(logits)).sum().item()


def test_soft_dpo_recovers_the_best_policy() -> None:
    """Tabular Bradley-Terry world: 4 answers, reference (.4, .3, .2, .1), reward (0, 1, 2, 3), beta = .5.

    The best policy is pi* ~ reference * exp(reward / .5) = (.4, .3 e^2, .2 e^4, .1 e^6) / 53.8792, that is
    (.00742401, .04114233, .20266865, .74876501). With p = sigma(reward gap) the summed loss at the optimum is the entropy of
    the labels: 3 H(sigma(1)) + 2 H(sigma(2)) + H(sigma(3)) = 3 * .582203 + 2 * .365334 + .190865 = 2.668142.
    """
    p = torch.sigmoid(REWARD[PAIRS[:, 1]] - REWARD[PAIRS[:, 0]])
    policy, loss = minimised(lambda delta: losses.soft_dpo(delta, p, 0.5), steps=500)
    expected = torch.tensor([0.00742401, 0.04114233, 0.20266865, 0.74876501], dtype=torch.float64)
    torch.testing.assert_close(policy, expected, atol=1e-6, rtol=0)
    assert loss == pytest.approx(2.668142007946, abs=1e-9)


@pytest.mark.parametrize("name", ["hard", "gdpo"])
def test_hard_dpo_and_gdpo_put_all_mass_on_the_best_answer(name: losses.LossName) -> None:
    """In the same world they have no finite optimum: the margins only grow and answer 4 takes everything (pi* gives it .749)."""
    p = torch.sigmoid(REWARD[PAIRS[:, 1]] - REWARD[PAIRS[:, 0]])
    policy, loss = minimised(lambda delta: losses.preference_loss(name, delta, p, 0.5, 0.0), steps=200)
    assert policy[3] > 0.9999
    assert loss < 1e-3


@pytest.mark.parametrize(
    ("p", "margin", "centring", "value"),
    [(1.0, 0.0, 0.0, 0.313262), (0.8, 0.0, 0.0, 0.513262), (0.8, 0.5, 0.0, 0.574077), (1.0, 0.0, 0.01, 0.403262)],
)
def test_bradley_terry(p: float, margin: float, centring: float, value: float) -> None:
    """Scores 2 and 1, so h = 1: ln(1 + e^-1) = .313262, and (1 - .8) * 1 more at p = .8. A margin of .5 makes h = .5:
    ln(1 + e^-.5) + .2 * .5 = .474077 + .1. Centring adds .01 * (2 + 1)^2 = .09.
    """
    chosen, rejected = (torch.tensor([x], dtype=torch.float64) for x in (2.0, 1.0))
    assert losses.bradley_terry(chosen, rejected, probability(p), margin, centring).item() == pytest.approx(value, abs=1e-6)


def test_equal_scores_cost_ln2_and_the_gap_ends_at_the_logit_of_p() -> None:
    """At gap 0 without margin: ln 2. The gradient sigma(gap - m) - p is 0 at gap = logit(.8) + m = 1.386294 + .5."""
    zero = torch.zeros(1, dtype=torch.float64)
    assert losses.bradley_terry(zero, zero, probability(0.9), 0.0, 0.0).item() == pytest.approx(log(2), abs=1e-12)
    gap = torch.tensor([log(4) + 0.5], dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(losses.bradley_terry(gap, zero, probability(0.8), 0.5, 0.0).sum(), gap)
    assert gradient.item() == pytest.approx(0.0, abs=1e-12)


def test_turning_a_pair_round_changes_nothing_without_a_margin() -> None:
    a, b = torch.linspace(-3, 3, 7, dtype=torch.float64), torch.linspace(2, -4, 7, dtype=torch.float64)
    p = torch.linspace(0.1, 0.9, 7, dtype=torch.float64)
    same = losses.bradley_terry(b, a, 1 - p, 0.0, 0.1)
    torch.testing.assert_close(losses.bradley_terry(a, b, p, 0.0, 0.1), same, atol=1e-12, rtol=0)
