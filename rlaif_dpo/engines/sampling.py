"""Tokens from logits, each row with its own randomness."""

import torch
from torch import Tensor


def uniforms(seed: int, count: int) -> Tensor:
    """The row's random numbers, one for each step: [count] float64 in [0, 1), the same on every machine."""
    return torch.rand(count, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def draw(logits: Tensor, temperature: Tensor, top_p: Tensor, uniform: Tensor) -> Tensor:
    """One token a row by the inverse distribution function of softmax(logits / temperature), in float64.

    Args:
        logits: [rows, vocabulary].
        temperature: [rows]; 0 takes the most probable token.
        top_p: [rows]; the smallest set of tokens with at least this probability is kept (Holtzman et al. 2020, 1904.09751).
        uniform: [rows], float64 in [0, 1).

    Returns:
        Token ids, [rows].
    """
    greedy = logits.argmax(dim=-1)
    sampled = temperature > 0
    if not bool(sampled.any()):
        return greedy
    probabilities = torch.softmax(logits.double() / torch.where(sampled, temperature, 1.0).unsqueeze(-1), dim=-1)
    if bool((top_p < 1).any()):
        probabilities = _nucleus(probabilities, top_p)
    cumulative = probabilities.cumsum(dim=-1)
    target = uniform.unsqueeze(-1) * cumulative[:, -1:]
    tokens = torch.searchsorted(cumulative, target, right=True).squeeze(-1).clamp(max=logits.shape[-1] - 1)
    return torch.where(sampled, tokens, greedy)


def _nucleus(probabilities: Tensor, top_p: Tensor) -> Tensor:
    ordered, order = probabilities.sort(dim=-1, descending=True, stable=True)
    before = ordered.cumsum(dim=-1) - ordered
    kept = ordered * (before < top_p.unsqueeze(-1))
    return torch.zeros_like(probabilities).scatter(-1, order, kept)
