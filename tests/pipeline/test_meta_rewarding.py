"""The recipe `meta-rewarding` on the sandbox, made small: two rounds, of which the first alone has pairs of judgments."""

from collections import Counter
from pathlib import Path

import pytest

from rlaif_dpo.errors import UserError
from rlaif_dpo.files import read_jsonl
from rlaif_dpo.pipeline import run_rounds
from rlaif_dpo.pipeline.rejudge import open_judged
from rlaif_dpo.recipe import load_recipe

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
    assert counts["judged"] == counts["meta_judged"] > 0
    for row in rows:
        if row["builder"] == "meta_judged":
            assert row["prompt"][0]["content"].endswith("Answer A or B.") and row["policy"] == "sandbox+20-sft"
            assert {row["chosen"][0]["content"], row["rejected"][0]["content"]} == {"A", "B"} and row["p"] > 0.5
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
