import pytest

from rlaif_dpo.messages import user
from rlaif_dpo.pairs.candidates import Candidate, Pair
from rlaif_dpo.pairs.preferences import hygiene, preference_row, why_dropped
from rlaif_dpo.prompts.rows import PromptRow

PAIR = Pair(PromptRow("p", (user("Hi"),)), Candidate(3, "first", 10), Candidate(1, "second", 20))


def judgment(p: float) -> dict[str, object]:
    verdicts = [{"principle_id": "kind", "p": p}, {"principle_id": "mute", "p": None}]
    return {"p": p, "verdicts": verdicts, "judge": "j", "source": "logprob"}


def test_the_better_one_is_chosen_and_p_is_kept() -> None:
    """p = .3 that the first is better: the second is chosen with 1 - .3 = .7."""
    row = preference_row(PAIR, judgment(0.8), {"policy": "m"})
    assert (row["chosen"][0]["content"], row["p"], row["candidates"], row["lengths"]) == ("first", 0.8, [3, 1], [10, 20])
    row = preference_row(PAIR, judgment(0.3), {"policy": "m"})
    assert (row["chosen"][0]["content"], row["candidates"], row["lengths"]) == ("second", [1, 3], [20, 10])
    assert row["p"] == pytest.approx(0.7)
    assert row["id"] == "p/3-1" and row["principle_ids"] == ["kind"] and row["policy"] == "m"


@pytest.mark.parametrize(
    ("p", "reason"),
    [
        (None, "no judgment"),
        (0.5, "tie"),
        (0.59, "low confidence"),
        (0.41, "low confidence"),
        (0.6, None),
        (0.4, None),
        (1.0, None),
    ],
)
def test_why_dropped(p: float | None, reason: str | None) -> None:
    assert why_dropped(p, 0.6) == reason


def test_hygiene() -> None:
    """Two of three rows with differing lengths have the longer one chosen; means 65 / 4 and 54 / 4.

    Bins of .05 from .5: .51 in the first, .55 in the second, .999 and 1 in the last.
    """
    rows = [
        {"p": p, "lengths": lengths} for p, lengths in ((0.51, [10, 5]), (0.5501, [20, 10]), (0.999, [5, 9]), (1.0, [30, 30]))
    ]
    stats = hygiene(rows)
    assert stats.chosen_longer == pytest.approx(2 / 3)
    assert (stats.chosen_tokens, stats.rejected_tokens) == (16.25, 13.5)
    assert stats.histogram == (1, 1, 0, 0, 0, 0, 0, 0, 0, 2)
    assert hygiene([{"p": 0.7, "lengths": [4, 4]}]).chosen_longer == 0.5
