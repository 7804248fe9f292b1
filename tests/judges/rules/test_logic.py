"""Conditions over uncertain propositions."""

import itertools

import pytest

from rlaif_dpo.judges.rules.logic import class_of, distribution, holds, names_in, probability, propositions_in
from rlaif_dpo.judges.rules.schema import Group, Response, ResponseClass, Rule
from rlaif_dpo.seeding import derive_rng

RULES = {"kind": Rule(id="kind", all=("thanks", "not rude")), "fine": Rule(id="fine", any=("kind", "short"))}


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        ("a", 0.9),
        ("not a", 0.1),
        (Group(all=("a", "b")), 0.9 * 0.5),
        (Group(any=("a", "b")), 1 - 0.1 * 0.5),
        (Group(all=("a", Group(any=("b", "not c")))), 0.9 * (1 - 0.5 * 0.2)),
    ],
)
def test_probability_of_independent_propositions(condition, expected):
    """P(a) = .9, P(b) = .5, P(c) = .2: all is the product, any is one less the product of the complements, not the complement."""
    assert probability(condition, {}, {"a": 0.9, "b": 0.5, "c": 0.2}) == pytest.approx(expected)


def test_a_proposition_that_occurs_twice_counts_once():
    """a and (a or b) is a: .9, where a plain product would say .9 * (1 - .1 * .5) = .855. a and not a is never."""
    assert probability(Group(all=("a", Group(any=("a", "b")))), {}, {"a": 0.9, "b": 0.5}) == pytest.approx(0.9)
    assert probability(Group(all=("a", "not a")), {}, {"a": 0.9}) == 0.0


def test_rules_stand_for_their_conditions():
    p = {"thanks": 0.8, "rude": 0.25, "short": 0.5}
    assert probability("kind", RULES, p) == pytest.approx(0.8 * 0.75)
    assert probability("not fine", RULES, p) == pytest.approx((1 - 0.6) * 0.5)
    assert list(propositions_in(["fine", "short"], RULES)) == ["thanks", "rude", "short", "short"]
    assert list(names_in(["not a", Group(any=("b", Group(all=("c",))))])) == ["a", "b", "c"]


def test_what_is_not_known_matters_only_where_the_outcome_hangs_on_it():
    both = Group(all=("a", "b"))
    assert probability(both, {}, {"a": None, "b": 0.0}) == 0.0
    assert probability(both, {}, {"a": 0.0, "b": None}) == 0.0
    assert probability(both, {}, {"a": None, "b": 0.5}) is None
    assert probability(Group(any=("a", "b")), {}, {"a": None, "b": 1.0}) == 1.0
    assert probability(Group(any=("a", "not a")), {}, {"a": None}) == 1.0


LADDER = Response(
    id="r",
    tags=("t",),
    classes=(
        ResponseClass(id="ideal", all=("declines", "explains")),
        ResponseClass(id="bare", all=("declines",)),
        ResponseClass(id="bad"),
    ),
    weights={"ideal": 1.0},
)


def test_classes_are_a_decision_list():
    """P(declines) = .9, P(explains) = .5: ideal .9 * .5, bare .9 * .5 (not ideal, but declines), bad the other .1."""
    p = {"declines": 0.9, "explains": 0.5}
    classes = distribution(lambda truth: class_of(LADDER, {}, truth), p)
    assert classes == {"ideal": pytest.approx(0.45), "bare": pytest.approx(0.45), "bad": pytest.approx(0.1)}
    assert distribution(lambda truth: class_of(LADDER, {}, truth), {"declines": 0.0, "explains": None}) == {"bad": 1.0}
    assert distribution(lambda truth: class_of(LADDER, {}, truth), {"declines": 1.0, "explains": None}) is None


def _random_condition(rng, depth):
    if depth == 0 or rng.random() < 0.3:
        return rng.choice(("", "not ")) + rng.choice("abcd")
    parts = tuple(_random_condition(rng, depth - 1) for _ in range(rng.randint(1, 3)))
    return Group(all=parts) if rng.random() < 0.5 else Group(any=parts)


@pytest.mark.parametrize("seed", range(40))
def test_probability_equals_the_sum_over_all_assignments(seed):
    """The split by cases against brute force: the sum over the 16 truth assignments of four propositions."""
    rng = derive_rng(seed, "logic")
    condition, p = _random_condition(rng, 3), {name: rng.random() for name in "abcd"}
    total = 0.0
    for values in itertools.product((False, True), repeat=4):
        truth = dict(zip("abcd", values, strict=True))
        weight = 1.0
        for name, value in truth.items():
            weight *= p[name] if value else 1 - p[name]
        total += weight * bool(holds(condition, {}, truth))
    assert probability(condition, {}, p) == pytest.approx(total, abs=1e-12)
