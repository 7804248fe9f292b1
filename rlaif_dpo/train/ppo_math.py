"""The equations of PPO for language models, as pure functions. docs/ppo.md puts them in order.

Notation: an episode is a prompt x and its sampled answer y_1 .. y_T, its state s_t is (x, y_<t), its action y_t. Tensors are
(rows, T) with one row an episode and one column a token, in nats where they are log-probabilities. `mask` (rows, T) is true where
there is a token; answers start in column 0 and have no gaps.
"""

from typing import Literal

import torch
from torch import Tensor

KlEstimator = Literal["k1", "k3"]
ADAPTIVE_GAIN = 0.1
ADAPTIVE_CLIP = 0.2


def kl_estimate(logp: Tensor, ref_logp: Tensor, estimator: KlEstimator) -> Tensor:
    """KL(pi || pi_ref) at each sampled token, from one sample. With x = log pi(y_t|s_t) - log pi_ref(y_t|s_t):

        k1 = x                  unbiased; of either sign
        k3 = e^-x - 1 + x       unbiased, too, since E_pi[e^-x] = 1; never negative, and of lower variance while pi is near pi_ref

    Source: Schulman 2020, "Approximating KL Divergence".
    """
    x = logp - ref_logp
    return x if estimator == "k1" else torch.expm1(-x) + x


def token_rewards(kl: Tensor, score: Tensor, mask: Tensor, beta: float) -> Tensor:
    """r_t = -beta kl_t + [t = T] score: the penalty at every token, the score (rows,) at the last.

    Source: Ziegler et al. 2019, arXiv 1909.08593, eq. 2; spread over tokens as in Stiennon et al. 2020, arXiv 2009.01325.
    """
    last = mask & (mask.sum(dim=1, keepdim=True) == mask.cumsum(dim=1))
    return torch.where(mask, -beta * kl, 0.0) + torch.where(last, score.unsqueeze(1), 0.0)


def gae(rewards: Tensor, values: Tensor, mask: Tensor, gamma: float, lam: float) -> tuple[Tensor, Tensor]:
    """Generalised advantage estimates and the returns that the value function learns.

        delta_t = r_t + gamma V(s_t+1) - V(s_t),    V(s_T+1) = 0
        A_t     = delta_t + gamma lambda A_t+1
        R_t     = A_t + V(s_t)

    Source: Schulman et al. 2016, arXiv 1506.02438, eq. 16.

    Returns:
        (A, R), both (rows, T) and 0 outside the mask.
    """
    values = torch.where(mask, values, 0.0)
    advantages = torch.zeros_like(values)
    next_value = next_advantage = torch.zeros_like(values[:, 0])
    for t in reversed(range(values.shape[1])):
        delta = rewards[:, t] + gamma * next_value - values[:, t]
        advantages[:, t] = delta + gamma * lam * next_advantage
        next_value, next_advantage = values[:, t], torch.where(mask[:, t], advantages[:, t], 0.0)
    advantages = torch.where(mask, advantages, 0.0)
    return advantages, advantages + values


def whiten(values: Tensor) -> Tensor:
    """(n,) values with mean 0 and standard deviation 1 (population); all 0 where they do not differ."""
    return (values - values.mean()) / (values.var(correction=0) + 1e-8).sqrt()


def policy_loss(logp: Tensor, old_logp: Tensor, advantages: Tensor, clip: float) -> Tensor:
    """-min(rho A, clip(rho, 1 - eps, 1 + eps) A) per token, with the ratio rho = pi(y_t|s_t) / pi_old(y_t|s_t).

    Source: Schulman et al. 2017, arXiv 1707.06347, eq. 7.
    """
    ratio = (logp - old_logp).exp()
    return -torch.minimum(ratio * advantages, ratio.clamp(1 - clip, 1 + clip) * advantages)


def value_loss(values: Tensor, old_values: Tensor, returns: Tensor, clip: float) -> Tensor:
    """max((V - R)^2, (V_clip - R)^2) / 2 per token, with V_clip = V_old + clip(V - V_old, -eps, eps).

    Source: the code of Schulman et al. 2017 (the paper does not have it), kept in Huang et al. 2024, arXiv 2403.17031.
    """
    clipped = old_values + (values - old_values).clamp(-clip, clip)
    return torch.maximum((values - returns) ** 2, (clipped - returns) ** 2) / 2


def clip_fraction(logp: Tensor, old_logp: Tensor, clip: float) -> Tensor:
    """1 per token whose ratio left [1 - eps, 1 + eps], else 0."""
    return (((logp - old_logp).exp() - 1).abs() > clip).float()


def explained_variance(values: Tensor, returns: Tensor) -> float:
    """1 - Var(R - V) / Var(R) over (n,) tokens: 1 is perfect, 0 as good as the mean, below that worse; 0 where R is constant."""
    variance = returns.var(correction=0)
    return float(1 - (returns - values).var(correction=0) / variance) if variance > 0 else 0.0


def adapt_beta(beta: float, kl: float, target: float) -> float:
    """The next coefficient, beta (1 + K clip(kl / target - 1, -.2, .2)) with K = .1, after answers with a mean KL of `kl` nats.

    Source: Ziegler et al. 2019, arXiv 1909.08593, section 2.2.
    """
    error = min(max(kl / target - 1, -ADAPTIVE_CLIP), ADAPTIVE_CLIP)
    return beta * (1 + ADAPTIVE_GAIN * error)
