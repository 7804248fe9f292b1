"""Pair builders through the method: what is planned and audited for them, and what a run and its report show."""

from collections import Counter
from pathlib import Path

import pytest

from rlaif_dpo.constitution.load import load_constitution
from rlaif_dpo.errors import UserError
from rlaif_dpo.files import read_json, read_jsonl, write_jsonl
from rlaif_dpo.pairs.planned import contrast_prompts, most_preferences
from rlaif_dpo.pipeline import Run, plan, run
from rlaif_dpo.pipeline.checks import check_recipe
from rlaif_dpo.pipeline.gate import needs_audit
from rlaif_dpo.pipeline.rejudge import open_judged
from rlaif_dpo.pipeline.stages import stages_of
from rlaif_dpo.pipeline.work import work_of
from rlaif_dpo.recipe import Recipe, load_recipe
from rlaif_dpo.sandbox import world
from rlaif_dpo.sandbox.truth import check
from tests.pairs.workshop import engine, make

ALONE = ("pairs.builders.rlcd=1",)
LADDER = ("pairs.builders.rbr_ladder=1", "judge.rulebook=refusals")
GRPO = ("optimizer=grpo", "grpo.rewards.model=1")


def quickstart(*overrides: str) -> Recipe:
    return load_recipe("quickstart", overrides)


@pytest.mark.parametrize(
    ("overrides", "audited"),
    [
        ((), True),
        (ALONE, False),
        (("pairs.builders.rlcd=1", "pairs.builders.judged=1"), True),
        (("judge.kind=human", "judge.labels=l.csv"), False),
        (LADDER, False),
        ((*LADDER, "judge.kind=rules"), True),
        ((*ALONE, "judge.saturation=auto"), True),
        ((*ALONE, *GRPO), False),
        ((*ALONE, *GRPO, "grpo.rewards.judge=1"), True),
    ],
    ids=[
        "judged",
        "rlcd",
        "both",
        "people",
        "ladder",
        "ladder of the judge",
        "treatment",
        "grpo",
        "judge's reward",
    ],
)
def test_the_judge_is_audited_where_something_rests_on_it(overrides: tuple[str, ...], audited: bool) -> None:
    assert needs_audit(quickstart(*overrides)) is audited


def test_a_set_and_phase_1_count_among_what_pairs_depend_on(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "set.jsonl", [{"prompt": "q", "chosen": "x", "rejected": "y"}])
    recipes = {
        "judged": quickstart(),
        "import": quickstart("pairs.builders.import=1", f"pairs.import.source={tmp_path / 'set.jsonl'}"),
        "revision": quickstart("pairs.builders.revision_over_draft=1"),
    }
    stages = {name: next(s for s in stages_of(of) if s.name == "30-pairs") for name, of in recipes.items()}
    inputs = {name: list(stage.inputs(recipes[name])) for name, stage in stages.items()}
    assert inputs["judged"] == ["20-sft/adapter"]
    assert inputs["import"] == inputs["revision"] == ["20-sft/adapter", "10-revise/drafts.jsonl", "10-revise/sft.jsonl"]
    assert str(tmp_path / "set.jsonl") in list(stages["import"].outside(recipes["import"]))


def test_columns_are_checked_before_a_run_begins(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "set.jsonl", [{"prompt": "q", "good": "x", "bad": "y"}])
    recipe = quickstart("pairs.builders.import=1", f"pairs.import.source={tmp_path / 'set.jsonl'}")
    with pytest.raises(UserError, match=r'has no column "chosen" \(`pairs.import.chosen_column`\)'):
        check_recipe(recipe, load_constitution("telehealth"))
    with pytest.raises(UserError, match="There is no file .*nowhere.jsonl; check `pairs.import.source`"):
        path = tmp_path / "nowhere.jsonl"
        check_recipe(quickstart(f"pairs.import.source={path}"), load_constitution("telehealth"))


PROMPTS = world.prompts(24, 9)
PHASES = {"revise": PROMPTS[:8], "pairs": PROMPTS[8:16], "evaluate": PROMPTS[16:]}


@pytest.mark.parametrize(
    ("overrides", "asked"),
    [
        ((), {"comparisons"}),
        (ALONE, set()),
        (LADDER, {"rules on replies"}),
        (("pairs.builders.judged=1", *LADDER), {"comparisons", "rules on replies"}),
    ],
    ids=["judged", "rlcd", "ladder", "both"],
)
def test_the_judge_is_asked_about_pairs_only_where_it_labels_them(overrides: tuple[str, ...], asked: set[str]) -> None:
    recipe = quickstart(*overrides)
    works = work_of(recipe, load_constitution("telehealth"), PHASES)
    assert {work.what for work in works if work.stage == "30-pairs"} == asked
    assert any(work.stage == "25-audit" for work in works) == needs_audit(recipe)


REVIEWED = ("judge.kind=additive", "judge.rationales=3", "judge.model=policy")
META = ("pairs.builders.judged=1", "pairs.builders.meta_judged=1")
TIERS = ("pairs.per_prompt=1", "pairs.length_tier=0.3")


@pytest.mark.parametrize(
    ("overrides", "asked"),
    [
        (REVIEWED, {"reviews": 8 * 4 * 3}),
        ((*REVIEWED, *TIERS), {"reviews": 8 * 4 * 3}),
        ((*REVIEWED, *META), {"reviews": 8 * 4 * 3, "meta-judgments": 8 * 2 * 3}),
        ((*META, "judge.model=policy", "judge.principles=1"), {"comparisons": 8 * 2 * 2, "meta-judgments": 8 * 2}),
        ((*TIERS, "judge.principles=1"), {"comparisons": 8 * 6 * 2}),
        (
            (*META, "judge.model=policy", "judge.principles=1", "judge.reasoning=cot", "judge.rationales=4"),
            {"rationales": 8 * 2 * 2 * 4, "comparisons": 8 * 2 * 2 * 4, "meta-judgments": 8 * 2 * 6},
        ),
    ],
    ids=["reviews", "tiers of reviews", "meta of reviews", "meta of verdicts", "tiers", "meta of rationales"],
)
def test_judgments_are_counted_before_they_are_compared(overrides: tuple[str, ...], asked: dict[str, int]) -> None:
    """Eight prompts, four answers, two pairs. Each answer is reviewed three times; of n judgments n (n - 1) / 2 pairs, twice.

    With tiers all six pairs of four answers are compared.
    """
    recipe = quickstart(*overrides)
    works = [w for w in work_of(recipe, load_constitution("telehealth"), PHASES) if w.stage == "30-pairs"]
    assert {work.what: work.requests for work in works} == asked and {work.model for work in works} == {recipe.judge.model}
    assert most_preferences(recipe, 8) == (8 if {*TIERS} <= {*overrides} else 16)  # 16 answers and 8 judgments mix as 8 and 8


def test_pairs_without_meta_rewarding_are_what_they_were(tmp_path: Path) -> None:
    """Its settings are among what pairs are made from where they are used, so that older runs stay finished."""
    tiers = (*TIERS, *META, "judge.model=policy")
    for overrides, named in ((("pairs.per_prompt=1",), set()), (tiers, {"pairs.length_tier", "pairs.builders.meta_judged"})):
        recipe = quickstart(*overrides)
        stage = next(stage for stage in stages_of(recipe) if stage.name == "30-pairs")
        found = stage.ingredients(recipe, load_constitution("telehealth"), tmp_path)
        assert {name for name in found if "tier" in name or "meta" in name} == named


@pytest.mark.slow
def test_the_plan_knows_that_a_judgment_is_a_longer_row_than_an_answer(tmp_path: Path) -> None:
    """Eight questions about two answers each, of 96 tokens at most; the least `max_length` that holds them all, and one less."""
    counts = ("prompts.revise=8", "prompts.pairs=8", "prompts.evaluate=8", "judge.model=policy")
    pairs = plan(quickstart(*META, *counts), tmp_path).phases["pairs"]
    assert pairs.rows == 16 and pairs.judge_passes > 8 * 2
    assert pairs.judge_row > pairs.max_tokens + pairs.room and pairs.over_length == 0
    less = plan(quickstart(*META, *counts, f"dpo.max_length={pairs.judge_row - 1}"), tmp_path).phases["pairs"]
    assert 1 <= less.over_length <= 8 and plan(quickstart(*counts), tmp_path).phases["pairs"].judge_row == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("builders", "answers", "rows"),
    [
        ({"judged": 1.0}, 4 * 8, 16),
        ({"rlcd": 1.0}, 4 * 8, 16),
        ({"judged": 1.0, "rlcd": 1.0}, 8 * 8, 32),
        ({"judged": 1.0, "rbr_ladder": 1.0}, 4 * 8, 32),
        ({"revision_over_draft": 1.0}, 0, 8),
        ({"rlcd": 1.0, "import": 0.25}, 4 * 8, 15),
    ],
    ids=lambda of: " ".join(of) if isinstance(of, dict) else str(of),
)
def test_the_plan_counts_the_answers_and_the_rows_of_each_builder(
    tmp_path: Path, builders: dict[str, float], answers: int, rows: int
) -> None:
    """Eight prompts, four candidates, two pairs each; three imported rows at .25 to 1 make 12 + 3 rows."""
    write_jsonl(tmp_path / "set.jsonl", ({"prompt": f"q{n}", "chosen": "x", "rejected": "y"} for n in range(3)))
    shares = [f"pairs.builders.{name}={weight}" for name, weight in builders.items()]
    sources = [f"pairs.import.source={tmp_path / 'set.jsonl'}"] if "import" in builders else []
    counts = ("prompts.revise=8", "prompts.pairs=8", "prompts.evaluate=8", "judge.rulebook=refusals", "judge.rulebook_asks=false")
    found = plan(quickstart(*shares, *sources, *counts), tmp_path)
    assert (found.phases["pairs"].generations, found.phases["pairs"].rows) == (answers, rows)
    assert any(note.startswith("Pairs are ") for note in found.notes) == (builders != {"judged": 1.0})


@pytest.mark.parametrize("builders", [{"rlcd": 1.0}, {"rlcd": 1.0, "rbr_ladder": 1.0}, {"rbr_ladder": 2.0}], ids=" ".join)
def test_the_model_is_asked_as_often_as_is_planned(tmp_path: Path, builders: dict[str, float]) -> None:
    recipe = quickstart(*(f"pairs.builders.{name}={weight}" for name, weight in builders.items()), "judge.rulebook=refusals")
    prompts, policy = world.prompts(40, 3), engine()
    summary = make(tmp_path, builders, prompts, policy=policy)
    candidates = recipe.pairs.candidates * len(prompts) if recipe.pairs.builders.samples else 0
    contrasts = contrast_prompts(recipe, prompts, load_constitution("telehealth"))
    assert len(policy.generated) == candidates + len(contrasts)
    assert summary.funnel["kept"] <= most_preferences(recipe, len(prompts))


SMALL = (
    "prompts.revise=32", "prompts.pairs=16", "prompts.evaluate=4", "revise.rounds=3", "sft.epochs=1", "dpo.epochs=1",
    "evaluate.bootstrap=50",
)  # fmt: skip


@pytest.fixture(scope="module")
def unjudged(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run with no judge's label in it."""
    shares = ("pairs.builders.revision_over_draft=1", "pairs.builders.rlcd=0.5")
    return run(quickstart("name=unjudged", *SMALL, *shares), root=tmp_path_factory.mktemp("runs"))


@pytest.mark.slow
def test_a_run_without_a_judged_pair_needs_no_audit_and_reports_who_made_what(unjudged: Run) -> None:
    assert unjudged.finished() and read_json(unjudged.path / "25-audit" / "audit.json") is None
    assert not (unjudged.path / "30-pairs" / "judgments.jsonl").exists()
    rows = list(read_jsonl(unjudged.path / "30-pairs" / "preferences.jsonl"))
    counts = Counter(row["builder"] for row in rows)
    assert counts["rlcd"] == counts["revision_over_draft"] // 2 > 0 and {row["p"] for row in rows} == {1.0}
    found = unjudged.evidence()
    by_builder = found["labels"]["by_builder"]
    assert {name: of["preferences"] for name, of in by_builder.items()} == dict(counts)
    assert all(of["histogram"]["counts"][-1] == of["preferences"] for of in by_builder.values())
    assert found["labels"]["judgments"] == 0 and found["funnel"]["30-pairs"]["kept"] == len(rows)
    assert found["run"]["builders"] == {"revision_over_draft": 1.0, "rlcd": 0.5}
    page = (unjudged.path / "report.html").read_text(encoding="utf-8")
    for said in ("revision_over_draft", "labelled nothing that was trained on, and it was not audited", "Made without a judge: "):
        assert said in page
    assert "AI judge's preferences" not in page and "which no human checked here" in (unjudged.path / "README.md").read_text()
    with pytest.raises(UserError, match="has no pair that a judge compared: `pairs.builders` were revision_over_draft, rlcd"):
        open_judged(unjudged.path)


@pytest.mark.slow
def test_revised_answers_keep_more_principles_than_their_drafts(unjudged: Run) -> None:
    """By ground truth: the base keeps .3 of them and a revision mends its principle all but always (docs/sandbox.md).

    Three rounds mend up to three of three to six principles. Each pair gains at least .2 on average; none loses.
    """
    prompts = {row["id"]: row["facts"] for row in read_jsonl(unjudged.path / "prompts.jsonl")}
    gains = []
    for row in read_jsonl(unjudged.path / "30-pairs" / "made.jsonl"):
        if row["builder"] == "revision_over_draft":
            facts = prompts[row["prompt_id"]]
            better, worse = (check(facts, row[side][0]["content"]).kept for side in ("chosen", "rejected"))
            gains.append(sum(better.values()) / len(better) - sum(worse.values()) / len(worse))
    assert len(gains) >= 20 and sum(gains) / len(gains) > 0.2 and sum(gain < 0 for gain in gains) <= 1
