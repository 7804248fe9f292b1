"""A run whose optimizer is GRPO, with rules and the judge itself as the reward: the real stages on a random model, and `kill -9`
in its midst.
"""

import json
import shutil
from pathlib import Path

import pytest

from rlaif_dpo.errors import UserError
from rlaif_dpo.files import read_jsonl, write_json, write_text
from rlaif_dpo.pipeline import Run, load_policy, plan, run
from rlaif_dpo.recipe import Recipe
from tests.pipeline.whole import check_killed, finished_run, whole_recipe

pytestmark = pytest.mark.slow

GRPO = """\
optimizer: grpo
grpo: {rewards: {model: 0, judge: 1, rules: 0.5}, updates: 4, batch_size: 8, group_size: 4, micro_batch_size: 4, lr: 1e-3,
       warmup: 0.0, save_steps: 2, max_new_tokens: 48, baseline_samples: 8, tripwires: warn}
"""
BOOK = """\
name: short
description: Be brief.
propositions:
  - {id: asks, about: prompt, check: {kind: length, min: 1}}
  - {id: short, check: {kind: length, unit: characters, max: 30}}
responses:
  - id: any
    when: asks
    classes: [{id: good, all: [short]}, {id: bad}]
    weights: {good: 1.0}
"""


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    folder = tmp_path_factory.mktemp("grpo")
    write_text(folder / "short.yaml", BOOK)
    return whole_recipe(folder, GRPO, judge=f"rulebook: {folder / 'short.yaml'}, rulebook_asks: false, ")


@pytest.fixture(scope="module")
def finished(recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return finished_run(recipe, tmp_path_factory.mktemp("runs"))


def test_no_label_is_made_and_every_answer_is_asked_about_once(finished: Run) -> None:
    assert [stage.stage for stage in finished.status()][-3:] == ["25-audit", "41-grpo", "50-evaluate"]
    assert {stage.state for stage in finished.status()} == {"finished"}
    folder = finished.path / "41-grpo"
    sampled = [row for name in ("baseline", "episodes") for row in read_jsonl(folder / f"{name}.jsonl")]
    different = {(row["prompt_id"], row["text"]) for row in sampled if row["completion_tokens"]}
    for name in ("judgments", "rules"):
        rows = list(read_jsonl(folder / f"{name}.jsonl"))
        assert len({row["id"] for row in rows}) == len(rows) == len(different)
    rules = {row["reward"] for row in read_jsonl(folder / "rules.jsonl")}
    assert rules <= {0.0, 1.0}
    assert len(list(read_jsonl(folder / "references.jsonl"))) == 8
    found = finished.report()
    assert found["reward"] is None and found["labels"] is None and found["run"]["rewards"] == "1 judge + 0.5 rules"
    assert found["cost"]["judge_tokens"] > sum(row["tokens"] for row in read_jsonl(folder / "judgments.jsonl"))
    assert {check["name"] for check in found["health"]["checks"]} >= {"kl", "zero_variance", "boilerplate"}
    assert "GRPO reward" in (finished.path / "report.html").read_text(encoding="utf-8")
    assert load_policy(finished.path).name == "tiny+41-grpo"


def test_plan_counts_answers_and_what_the_judge_is_asked(finished: Run, recipe: Recipe) -> None:
    """8 answers of the baseline, 4 updates of 8 and 8 to compare with: 48. The judge: 40 answers, 1 principle, 2 orders."""
    found = plan(recipe, root=finished.path.parent)
    assert [stage.action for stage in found.stages] == ["skip"] * 6
    assert list(found.phases) == ["revise", "evaluate", "grpo"]
    work = found.phases["grpo"]
    assert (work.prompts, work.generations, work.reward_passes, work.judge_passes) == (8, 48, 0, 80)


def test_a_judge_that_may_not_label_may_not_reward(finished: Run, recipe: Recipe, tmp_path: Path) -> None:
    shutil.copytree(finished.path, tmp_path / "whole")
    audit = tmp_path / "whole" / "25-audit" / "audit.json"
    kept = json.loads(audit.read_text())
    accuracy = [check | {"result": "failed", "serious": True} for check in kept["checks"][:1]]
    write_json(audit, kept | {"checks": accuracy + kept["checks"][1:]})
    with pytest.raises(UserError, match="This judge may not label"):
        run(recipe, root=tmp_path, from_stage="grpo")


def test_killed_in_its_midst_it_comes_to_the_same_weights_and_asks_about_no_answer_twice(
    finished: Run, recipe: Recipe, tmp_path: Path
) -> None:
    """A checkpoint every 2 updates; SIGKILL when the baseline is there, and when 3 updates are."""
    journals = ("baseline.jsonl", "episodes.jsonl", "metrics.jsonl"), ("references.jsonl", "judgments.jsonl", "rules.jsonl")
    assert check_killed(recipe, finished, tmp_path, "41-grpo", (0, 3), *journals)[-1] == ["checkpoint-2"]
