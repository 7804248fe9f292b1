"""Conditions over propositions that hold with some probability."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TypeVar

from rlaif_dpo.judges.rules.schema import NOT, Condition, Response, Rule

T = TypeVar("T", bool, str)
Truth = Mapping[str, bool]


@dataclass(frozen=True)
class Open:
    """A condition's value hangs on this proposition."""

    proposition: str


def holds(condition: Condition, rules: Mapping[str, Rule], truth: Truth) -> bool | Open:
    """The condition's value as far as `truth` settles it: one false part settles an `all`, one true part an `any`."""
    if isinstance(condition, str):
        name = condition.removeprefix(NOT)
        value = holds(rules[name], rules, truth) if name in rules else truth.get(name, Open(name))
        return value if isinstance(value, Open) or name == condition else not value
    parts, settling = (condition.all, False) if condition.all else (condition.any, True)
    first_open: Open | None = None
    for part in parts:
        value = holds(part, rules, truth)
        if value is settling:
            return value
        if isinstance(value, Open):
            first_open = first_open or value
    return first_open or not settling


def class_of(response: Response, rules: Mapping[str, Rule], truth: Truth) -> str | Open:
    """The best class whose condition holds; the last one takes the rest."""
    for entry in response.classes[:-1]:
        value = holds(entry, rules, truth)
        if isinstance(value, Open):
            return value
        if value:
            return entry.id
    return response.classes[-1].id


def distribution(decide: Callable[[Truth], T | Open], p: Mapping[str, float | None]) -> dict[T, float] | None:
    """The probability of each outcome of `decide`, exact for independent propositions with probabilities `p`.

    A proposition is split into its two cases where the outcome hangs on it, so one that occurs twice counts once. None where
    the outcome hangs on a proposition whose p is None.
    """

    def split(truth: dict[str, bool]) -> dict[T, float] | None:
        outcome = decide(truth)
        if not isinstance(outcome, Open):
            return {outcome: 1.0}
        chance = p[outcome.proposition]
        yes, no = split(truth | {outcome.proposition: True}), split(truth | {outcome.proposition: False})
        if chance is None:
            return yes if yes == no else None
        if yes is None or no is None:
            return None
        return {key: chance * yes.get(key, 0.0) + (1 - chance) * no.get(key, 0.0) for key in yes | no}

    return split({name: bool(chance) for name, chance in p.items() if chance in (0, 1)})


def probability(condition: Condition, rules: Mapping[str, Rule], p: Mapping[str, float | None]) -> float | None:
    """P(the condition holds); None where it hangs on a proposition that could not be had."""
    outcomes = distribution(lambda truth: holds(condition, rules, truth), p)
    return None if outcomes is None else outcomes.get(True, 0.0)


def names_in(conditions: Iterable[Condition]) -> Iterator[str]:
    """The ids that conditions name, without their `not`."""
    for condition in conditions:
        if isinstance(condition, str):
            yield condition.removeprefix(NOT)
        else:
            yield from names_in((*condition.all, *condition.any))


def propositions_in(names: Iterable[str], rules: Mapping[str, Rule]) -> Iterator[str]:
    """The propositions behind `names`, rules followed to their own."""
    for name in names:
        if name in rules:
            yield from propositions_in(names_in((rules[name],)), rules)
        else:
            yield name
