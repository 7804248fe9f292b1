import math

import torch

from rlaif_dpo.engines.sampling import draw, uniforms


def column(*values):
    return torch.tensor(values, dtype=torch.float64)


def test_inverse_distribution_function():
    """p = (.2, .3, .5), cumulative (.2, .5, 1): u = .1 -> 0, .2 -> 1 (right-continuous), .49 -> 1, .5 -> 2, .999 -> 2."""
    logits = torch.tensor([[math.log(0.2), math.log(0.3), math.log(0.5)]], dtype=torch.float64).repeat(5, 1)
    ones = torch.ones(5, dtype=torch.float64)
    u = column(0.1, 0.2 + 1e-12, 0.49, 0.5 + 1e-12, 0.999)
    assert draw(logits, ones, ones, u).tolist() == [0, 1, 1, 2, 2]


def test_temperature():
    """logits (0, ln 4) at T = 2: weights 1 and 2, so P(0) = 1/3: u = .33 -> 0, .34 -> 1. At T = 1, P(0) = .2. T = 0: argmax."""
    logits = torch.tensor([[0.0, math.log(4)]]).repeat(4, 1)
    one = torch.ones(4, dtype=torch.float64)
    assert draw(logits, column(2, 2, 1, 0), one, column(0.33, 0.34, 0.21, 0.0)).tolist() == [0, 1, 1, 1]
    assert draw(logits, column(0, 0, 0, 0), one, column(0, 0, 0, 0)).tolist() == [1] * 4


def test_top_p():
    """p = (.2, .3, .5): top_p .5 keeps {2}; .6 keeps {2, 1} with P(1) = .375: in the order of ids u = .37 -> 1, .38 -> 2."""
    logits = torch.tensor([[math.log(0.2), math.log(0.3), math.log(0.5)]]).repeat(4, 1)
    ones = torch.ones(4, dtype=torch.float64)
    assert draw(logits, ones, column(0.5, 0.6, 0.6, 1), column(0.0, 0.37, 0.38, 0.1)).tolist() == [2, 1, 2, 0]


def test_frequencies_are_the_probabilities():
    """20,000 draws at p = (.1, .2, .7): each frequency within 4 standard errors, 4 sqrt(.21 / 20000) = .013."""
    logits = torch.tensor([[math.log(0.1), math.log(0.2), math.log(0.7)]])
    u = uniforms(5, 20_000)
    one = torch.ones(20_000, dtype=torch.float64)
    counts = torch.bincount(draw(logits.expand(20_000, 3), one, one, u), minlength=3) / 20_000
    assert torch.allclose(counts, torch.tensor([0.1, 0.2, 0.7]), atol=0.013)


def test_uniforms_are_a_function_of_the_seed():
    assert torch.equal(uniforms(2**62 + 1, 40), uniforms(2**62 + 1, 40))
    assert torch.equal(uniforms(3, 40)[:7], uniforms(3, 7))
    assert not torch.equal(uniforms(3, 7), uniforms(4, 7))
