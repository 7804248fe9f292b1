"""The recipe `meta-rewarding` on the sandbox, made small, and what the sandbox model makes of judgments."""

import random
from collections import Counter
from pathlib import Path
from statistics import fmean

import pytest

from rlaif_dpo.constitution import load_constitution
from rlaif_dpo.engines.transformers import TransformersEngine
from rlaif_dpo.errors import UserError
from rlaif_dpo.files import read_jsonl
from rlaif_dpo.judges.audit.statistics import exact_interval
from rlaif_dpo.judges.base import Comparison
from rlaif_dpo.judges.criteria import criterion_of
from rlaif_dpo.judges.meta import META, judged_of
from rlaif_dpo.judges.pairwise import PairwiseJudge
from rlaif_dpo.models.load import load_model
from rlaif_dpo.pipeline import run_rounds
from rlaif_dpo.pipeline.rejudge import open_judged
from rlaif_dpo.recipe import load_recipe
from rlaif_dpo.recipe.schema import JudgeSettings, Model
from rlaif_dpo.sandbox import world

SMALL = (
    "rounds=2", "iteration.judge_rounds=1", "iteration.min_quality=0", "iteration.min_distinct=0", "prompts.revise=16",
    "prompts.pairs=24", "prompts.evaluate=4", "revise.rounds=2", "sft.epochs=1", "dpo.epochs=1", "pairs.candidates=3",
    "judge.audit_pairs=12", "judge.principles=2", "evaluate.bootstrap=50",
    "judge.accept=[accuracy, same, padded, reordered, empty, injected, position, length, own, layout, mass, verdicts, stability]",
)  # fmt: skip


@pytest.mark.slow
def test_two_rounds_of_which_the_first_trains_the_judge_too(tmp_path: Path) -> None:
    found = run_rounds(load_recipe("meta-rewarding", SMALL), tmp_path)
    first, second = (tmp_path / "meta-rewarding" / f"round-{number}" / "30-pairs" for number in (1, 2))
    rows = list(read_jsonl(first / "preferences.jsonl"))
    counts = Counter(row["builder"] for row in rows)
    assert counts["meta_judged"] == counts["judged"] // 4 > 0
    for row in rows:
        if row["builder"] == "meta_judged":
            assert row["prompt"][0]["content"].endswith("Answer A or B.") and row["policy"] == "sandbox+20-sft"
            assert {row["chosen"][0]["content"], row["rejected"][0]["content"]} == {"A", "B"} and 0.5 < row["p"] < 0.6
        else:
            assert row["scores"][0] > row["scores"][1] and row["p"] > 0.5
    trained = {row["id"] for row in read_jsonl(first / "preferences.jsonl")}
    assert len(trained) == len(rows)
    assert not (second / "meta_judgments.jsonl").exists()
    assert {row["builder"] for row in read_jsonl(second / "preferences.jsonl")} == {"judged"}
    assert [row["judge_pairs"] for row in found["by_round"]] == [counts["meta_judged"], None]
    with pytest.raises(UserError, match="has judged pairs that were chosen by their scores, which are not judged anew"):
        open_judged(first.parent)
    page = (tmp_path / "meta-rewarding" / "report.html").read_text(encoding="utf-8")
    assert "of them, judgments" in page
    report = (first.parent / "report.html").read_text(encoding="utf-8")
    assert "comparisons of the policy's judgments by the policy" in report and "of its own judgments" in report


@pytest.mark.slow
def test_the_sandbox_model_cannot_tell_a_right_verdict_from_a_wrong_one() -> None:
    """24 pairs of answers of which one keeps a principle: as a judge it is right; of its two verdicts it has no idea.

    docs/rounds.md says so. As a meta-judge it was right about 25 of 48 verdicts, with a mean p of the preferred one of .5001; the
    95 % interval of a share of 48 must contain one half, and p lies within .01 of it.
    """
    settings, rng = JudgeSettings(), random.Random(1)
    principles = load_constitution("telehealth").principles
    pairs, first_keeps = list[Comparison](), dict[str, bool]()
    while len(pairs) < 24:
        kind = rng.choice(("ordinary", "emergency", "dangerous"))
        row = world.draw_prompt(rng, held_out=False, kind=kind)
        first, second = (world.draw_answer(rng, kind, 0.5) for _ in range(2))
        differs = [p for p in principles if p.id in world.APPLIES[kind] and (p.id in first.kept) != (p.id in second.kept)]
        if differs:
            principle, texts = rng.choice(differs), [world.render(row.facts, answer) for answer in (first, second)]
            pairs.append(Comparison(f"{len(pairs)}", row.messages, texts[0], texts[1], (criterion_of(principle),)))
            first_keeps[pairs[-1].id] = principle.id in first.kept
    judge = PairwiseJudge(TransformersEngine(load_model(Model())), settings)
    judgments = {judgment.id: judgment for judgment in judge.compare(pairs)}
    assert sum((judgments[pair.id].p or 0) > 0.5 for pair in pairs if first_keeps[pair.id]) >= sum(first_keeps.values()) - 1

    verdicts, a_is_right = list[Comparison](), dict[str, bool]()
    for pair in pairs:
        for order, judged in zip(("ab", "ba"), judged_of(pair, judgments[pair.id].as_row(), settings), strict=True):
            verdicts.append(Comparison(f"{pair.id}/{order}", judged.messages, *judged.judgments, (META,)))
            a_is_right[verdicts[-1].id] = first_keeps[pair.id] == (order == "ab")
    metas = list(judge.compare(verdicts))
    assert all(meta.p is not None and meta.verdicts[0].mass_ab > 0.9 for meta in metas)
    right = sum((meta.p > 0.5) == a_is_right[meta.id] for meta in metas if meta.p is not None)
    low, high = exact_interval(right, len(metas))
    assert low < 0.5 < high and fmean(max(meta.p, 1 - meta.p) for meta in metas if meta.p is not None) < 0.51
