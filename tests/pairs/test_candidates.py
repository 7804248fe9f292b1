import random

import pytest

from rlaif_dpo.messages import user
from rlaif_dpo.pairs.candidates import Candidate, choose_pairs, similarity, usable_candidates
from rlaif_dpo.prompts.rows import PromptRow

PROMPT = PromptRow("p", (user("Hi"),))


def candidates(count: int) -> list[Candidate]:
    return [Candidate(n, f"text {n}", 2) for n in range(1, count + 1)]


@pytest.mark.parametrize(
    ("count", "per_prompt", "pairs", "distinct"),
    [
        (0, 2, 0, 0),
        (1, 2, 0, 0),
        (2, 2, 1, 2),
        (3, 2, 2, 3),
        (3, 9, 3, 3),
        (4, 2, 2, 4),
        (4, 3, 3, 4),
        (5, 2, 2, 4),
        (8, 3, 3, 6),
    ],
)
def test_pairs_are_disjoint_while_there_are_enough(count: int, per_prompt: int, pairs: int, distinct: int) -> None:
    """Of 4 candidates 2 pairs are disjoint; a third shares. Of 3, one pair, then pairs that share; 3 pairs are all there are."""
    for seed in range(20):
        chosen = choose_pairs(PROMPT, candidates(count), per_prompt, seed)
        assert len(chosen) == pairs
        assert len({frozenset((pair.first.number, pair.second.number)) for pair in chosen}) == pairs
        assert all(pair.first.number != pair.second.number for pair in chosen)
        if pairs:
            assert len({number for pair in chosen for number in (pair.first.number, pair.second.number)}) >= min(
                distinct, 2 * pairs
            )
        disjoint = chosen[: count // 2]
        assert len({number for pair in disjoint for number in (pair.first.number, pair.second.number)}) == 2 * len(disjoint)


def test_which_candidate_stands_first_is_even() -> None:
    """Over 400 seeds the lower number stands first in 200 pairs; s.d. 10, five of them 50."""
    first = sum(
        pair.first.number < pair.second.number for seed in range(400) for pair in choose_pairs(PROMPT, candidates(2), 1, seed)
    )
    assert abs(first - 200) < 50


def test_the_choice_is_a_function_of_seed_and_prompt() -> None:
    random.seed(1)
    assert choose_pairs(PROMPT, candidates(6), 2, 3) == choose_pairs(PROMPT, candidates(6), 2, 3)
    ids = {tuple(pair.id for pair in choose_pairs(PromptRow(f"p{i}", PROMPT.messages), candidates(6), 2, 3)) for i in range(9)}
    assert len({tuple(id.split("/")[1] for id in pair) for pair in ids}) > 1


def test_similarity() -> None:
    """10 words, the last differs: 9 common words of 10 + 10, 2 x 9 / 20 = .9."""
    nine = "a b c d e f g h i "
    assert similarity(nine + "x", nine + "y") == pytest.approx(0.9)
    assert similarity("a b", " a  b ") == 1
    assert similarity("a b", "c d") == 0


def test_usable_candidates_end_by_themselves_and_differ() -> None:
    def row(n: int, text: str, finish: str = "stop", error: str | None = None) -> dict[str, object]:
        return {
            "id": f"p/{n}", "prompt_id": "p", "candidate": n, "text": text, "finish_reason": finish, "error": error,
            "completion_tokens": 7,
        }  # fmt: skip

    rows = [
        row(1, "yes "), row(2, "yes"), row(3, " "), row(4, "no", "length"), row(5, "", "error", "broke"), row(6, "no"),
    ]  # fmt: skip
    usable, dropped = usable_candidates(rows)
    assert usable == [Candidate(1, "yes", 7), Candidate(6, "no", 7)]
    assert [(drop["id"], drop["reason"]) for drop in dropped] == [
        ("p/2", "duplicate candidate"),
        ("p/3", "empty candidate"),
        ("p/4", "no end of sequence"),
        ("p/5", "candidate failed"),
    ]
    assert dropped[-1]["error"] == "broke"
