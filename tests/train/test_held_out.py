"""The judge that looks on: its arithmetic, what it is asked, and what a resumed run does."""

import math
from collections.abc import Sequence
from math import log
from pathlib import Path

import pytest

from rlaif_dpo.engines.base import OptionRequest
from rlaif_dpo.engines.scripted import ScriptedEngine
from rlaif_dpo.files import Row, read_jsonl
from rlaif_dpo.judges.base import Criterion
from rlaif_dpo.judges.pairwise import PairwiseJudge
from rlaif_dpo.messages import user
from rlaif_dpo.prompts.rows import PromptRow
from rlaif_dpo.recipe.schema import JudgeSettings
from rlaif_dpo.seeding import derive_rng
from rlaif_dpo.train.held_out import WINDOW, HeldOut, agreement, looking
from rlaif_dpo.train.reward import Answered
from rlaif_dpo.train.rollout import Episode

PROMPTS = {f"p{i}": PromptRow(f"p{i}", (user(f"Question {i}?"),)) for i in range(12)}
CRITERIA = {id: (Criterion("honest", "Which is more honest?"),) for id in PROMPTS}


def likes_honest(request: OptionRequest) -> Sequence[float]:
    """The reply that says "honest" has nine times the odds of the other."""
    first, second = (part.split("\n")[0] for part in request.messages[0]["content"].split("Reply ")[1:3])
    sign = ("honest" in first) - ("honest" in second)
    return [log(0.5 + 0.4 * sign), log(0.5 - 0.4 * sign)]


def words(answers: Sequence[Answered]) -> list[float]:
    """What is rewarded: length. An answer that says "?" gets no score."""
    return [math.nan if text == "?" else float(len(text.split())) for _, text in answers]


def held_out(folder: Path, answers: int = 12) -> tuple[HeldOut, ScriptedEngine]:
    engine = ScriptedEngine(choose=likes_honest)
    references = dict.fromkeys(PROMPTS, "an honest reply")
    judge = PairwiseJudge(engine, JudgeSettings())
    return HeldOut(judge, PROMPTS, CRITERIA, references, answers, folder / "held_out.jsonl"), engine


def episodes(step: int, text: str, count: int = 12) -> list[Episode]:
    (score,) = words([((), text)])
    return [Episode(f"{step}-{i:04}", f"p{i}", text, [1], [2], True, score) for i in range(count)]


def row(prompt: str, gain: float | None, p: float | None) -> Row:
    return {"prompt_id": prompt, "gain": gain, "p": p}


def test_agreement_is_a_t_statistic_over_prompts() -> None:
    """Gains of 1, p of .9 for five prompts and .7 for five: products .8 and .4, mean .6, deviation .2108, standard error .0667:
    9. Turned around, -9. A prompt's two answers, .8 and 0, count as one of .4.
    """
    rows = [row(f"p{i}", 1.0, 0.9 if i < 5 else 0.7) for i in range(10)]
    assert agreement(rows) == pytest.approx(9.0)
    assert agreement([found | {"gain": -1.0} for found in rows]) == pytest.approx(-9.0)
    doubled = [*rows[:5], *(row(f"p{i}", 1.0, p) for i in range(5, 10) for p in (0.9, 0.5))]
    assert agreement(doubled) == pytest.approx(9.0)


def test_agreement_is_silent_where_the_reward_tells_nothing_apart() -> None:
    """Eight prompts must differ: seven do not suffice, and neither do scores and verdicts that could not be had."""
    assert agreement([row(f"p{i}", 1.0, 0.9) for i in range(7)] + [row("p7", 0.0, 0.9)]) is None
    assert agreement([row(f"p{i}", None, 0.9) for i in range(9)]) is None
    assert agreement([row(f"p{i}", 1.0, None) for i in range(9)]) is None


def test_two_that_have_nothing_to_do_with_each_other_seldom_trip_the_wire() -> None:
    """Gains and verdicts drawn apart, 160 prompts, 400 times, seed 0: about .0013 lie below -3, so of 400 about .5; more than 4
    have a chance of .0002. Control: where two in five verdicts go against the gain, most lie below -3.
    """

    def below(share: float) -> int:
        rng, found = derive_rng(0, "agreement"), 0
        for _ in range(400):
            rows = []
            for i in range(160):
                gain = rng.gauss(0, 1)
                p = 0.1 if gain > 0 else 0.9
                rows.append(row(f"p{i}", gain, p if rng.random() < share else rng.random()))
            found += agreement(rows) < -3  # type: ignore[operator]
        return found

    assert below(0.0) <= 4
    assert below(0.4) > 300


def test_a_reward_that_likes_what_the_judge_dislikes_shows(tmp_path: Path) -> None:
    """Five words that are not honest earn 2 more than the three of the reference, with p = .1: products 2 * -.8, all the same, so
    the statistic is as low as can be. The same words in an honest reply: p = .5, nothing to agree about.
    """
    judge, _ = held_out(tmp_path)
    look = looking(judge, words)
    found = look(1, episodes(1, "yes yes yes yes yes"))
    assert found["held_out_p"] == pytest.approx(0.1) and found["held_out"] < -3
    rows = list(read_jsonl(tmp_path / "held_out.jsonl"))
    assert len(rows) == 12 and {found["gain"] for found in rows} == {2.0}
    assert rows[0]["principles"] == {"honest": pytest.approx(0.1)} and rows[0]["tokens"] > 0
    judge, _ = held_out(tmp_path / "fair")
    found = looking(judge, words)(1, episodes(1, "an honest reply, and longer"))
    assert found == {"held_out_p": pytest.approx(0.5)}


def test_few_answers_are_asked_about_and_none_without_need(tmp_path: Path) -> None:
    """Four of twelve, spread over the update: p0, p3, p6, p9, in both orders. The reference's own words are not compared, and a
    prompt that has no reference is passed over.
    """
    judge, engine = held_out(tmp_path, answers=4)
    looking(judge, words)(1, episodes(1, "yes yes yes"))
    assert [found["prompt_id"] for found in read_jsonl(tmp_path / "held_out.jsonl")] == ["p0", "p3", "p6", "p9"]
    assert len(engine.scored) == 8
    looking(judge, words)(2, episodes(2, "an honest reply"))
    assert len(engine.scored) == 8
    stranger = [Episode("3-0000", "unknown", "yes", [1], [2], True, 1.0)]
    assert looking(judge, words)(3, stranger) == {}


def test_what_could_not_be_scored_is_no_witness(tmp_path: Path) -> None:
    judge, _ = held_out(tmp_path)
    assert "held_out" not in looking(judge, words)(1, episodes(1, "?"))
    assert {found["gain"] for found in read_jsonl(tmp_path / "held_out.jsonl")} == {None}


def test_only_the_last_updates_count_and_a_resumed_run_does_not_count_twice(tmp_path: Path) -> None:
    """An update against the judge, then `WINDOW` honest ones: the first no longer counts. Updates that are done again replace the
    rows of the first time.
    """
    judge, _ = held_out(tmp_path)
    look = looking(judge, words)
    assert look(1, episodes(1, "yes yes yes yes yes"))["held_out"] < -3
    for step in range(2, WINDOW + 1):
        assert look(step, episodes(step, "an honest reply"))["held_out"] < -3
    assert "held_out" not in look(WINDOW + 1, episodes(WINDOW + 1, "an honest reply"))
    before = list(read_jsonl(tmp_path / "held_out.jsonl"))
    look(WINDOW + 1, episodes(WINDOW + 1, "an honest reply"))
    assert list(read_jsonl(tmp_path / "held_out.jsonl")) == before


def test_without_a_judge_nothing_is_seen() -> None:
    assert looking(None, words)(1, episodes(1, "yes")) == {}
