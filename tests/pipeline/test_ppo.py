"""A run whose optimizer is PPO: the real stages on a random model, and `kill -9` in its midst."""

import json
import shutil
from pathlib import Path

import pytest

from rlaif_dpo.errors import UserError
from rlaif_dpo.files import read_jsonl, write_json
from rlaif_dpo.pipeline import Run, load_policy, plan, run
from rlaif_dpo.recipe import Recipe
from tests.pipeline.whole import check_killed, finished_run, whole_recipe

pytestmark = pytest.mark.slow

UPDATES = 6
PPO = """\
optimizer: ppo
reward: {epochs: 4, lr: 1e-2, batch_size: 4}
ppo: {updates: 6, batch_size: 8, minibatch_size: 4, micro_batch_size: 2, epochs: 2, lr: 1e-3, value_lr: 1e-3, warmup: 0.0,
      save_steps: 2, max_new_tokens: 12, baseline_samples: 8, kl_target: 0.1, tripwires: warn}
"""


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    return whole_recipe(tmp_path_factory.mktemp("ppo"), PPO)


@pytest.fixture(scope="module")
def finished(recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return finished_run(recipe, tmp_path_factory.mktemp("runs"))


def test_every_stage_finishes_and_the_report_follows(finished: Run) -> None:
    assert [stage.stage for stage in finished.status()][-3:] == ["40-reward", "41-ppo", "50-evaluate"]
    assert {stage.state for stage in finished.status()} == {"finished"}
    answers = list(read_jsonl(finished.path / "50-evaluate" / "answers.jsonl"))
    assert {row["engine"] for row in answers} == {"tiny", "tiny+20-sft", "tiny+41-ppo"}
    assert {row["policy"] for row in answers} == {"base", "sft", "ppo"}
    found = finished.report()
    assert found["reward"]["pairs"]["trained"] > 0
    assert {check["name"] for check in found["health"]["checks"]} >= {
        "kl", "reward_gain", "distinct_ratio", "length_ratio", "entropy_ratio", "boilerplate",
    }  # fmt: skip
    assert found["health"]["baseline"]["answers"] == 8
    page = (finished.path / "report.html").read_text(encoding="utf-8")
    assert "PPO boilerplate" in page and "Reward model loss" in page and "DPO margin" not in page


def test_policies_have_their_own_names(finished: Run) -> None:
    assert load_policy(finished.path).name == load_policy(finished.path, "ppo").name == "tiny+41-ppo"
    with pytest.raises(UserError, match="trains no dpo policy: its recipe says optimizer: ppo, which has sft, ppo"):
        load_policy(finished.path, "dpo")


def test_plan_counts_answers_and_reward_passes(finished: Run, recipe: Recipe) -> None:
    """8 answers of the SFT model and 6 updates of 8 are 56, each sampled once and scored once."""
    found = plan(recipe, root=finished.path.parent)
    assert [stage.action for stage in found.stages] == ["skip"] * 8
    work = found.phases["ppo"]
    assert (work.prompts, work.generations, work.reward_passes, work.judge_passes) == (8, 56, 56, 0)
    sampled = [row for name in ("baseline", "episodes") for row in read_jsonl(finished.path / "41-ppo" / f"{name}.jsonl")]
    assert len(sampled) == work.generations
    assert sum(row["prompt_tokens"] + row["completion_tokens"] for row in sampled) * 2 <= work.tokens
    changed = plan(recipe.model_copy(update={"optimizer": "dpo"}), root=finished.path.parent)
    assert [stage.action for stage in changed.stages] == ["skip"] * 5 + ["run", "redo"] and "ppo" not in changed.phases


def test_a_broken_reward_model_is_not_learned_from(finished: Run, recipe: Recipe, tmp_path: Path) -> None:
    shutil.copytree(finished.path, tmp_path / "whole")
    card = tmp_path / "whole" / "40-reward" / "card.json"
    write_json(card, json.loads(card.read_text()) | {"status": "broken", "verdict": "The reward model is broken: it is."})
    with pytest.raises(UserError, match="The reward model is broken: it is. PPO would learn from noise"):
        run(recipe, root=tmp_path, from_stage="ppo")


def test_killed_in_the_midst_of_ppo_it_comes_to_the_same_weights(finished: Run, recipe: Recipe, tmp_path: Path) -> None:
    """A checkpoint every 2 updates; SIGKILL when the baseline is there, and when 1, 3 and 4 updates are."""
    kept = check_killed(recipe, finished, tmp_path, "41-ppo", (0, 1, 3, 4), ("baseline.jsonl", "episodes.jsonl", "metrics.jsonl"))
    assert kept[0] == [] and kept[-1] in (["checkpoint-2"], ["checkpoint-4"])
    assert [row["step"] for row in read_jsonl(tmp_path / "whole" / "41-ppo" / "metrics.jsonl")] == list(range(1, UPDATES + 1))
