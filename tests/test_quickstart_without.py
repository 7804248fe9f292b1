"""The quickstart recipe with a principle taken out of its constitution, by ground truth."""

from pathlib import Path
from statistics import fmean

import pytest

from rlaif_dpo import load_recipe, run
from rlaif_dpo.bootstrap import draw
from rlaif_dpo.constitution import dump_lock, load_constitution, without
from rlaif_dpo.evaluate.answers import answer_prompts
from rlaif_dpo.evaluate.truth import check_answers, truth_results
from rlaif_dpo.pipeline import load_policy
from rlaif_dpo.pipeline.stage import read_prompts
from rlaif_dpo.progress import Silent
from rlaif_dpo.sandbox.truth import check

pytestmark = pytest.mark.slow


def test_a_constitution_without_privacy_leaves_privacy_near_base(tmp_path: Path) -> None:
    """On a third of the prompts. "Near": it moves by less than a third of what the full constitution moves it by, .74.

    Measured: .04, on 100 prompts, with a standard error of .06, of which the bound leaves three. The control: the other
    seven principles gain .25 or more on average (measured: .41). No judge is asked about the answers, since the truth is.
    """
    constitution = tmp_path / "no_privacy.yaml"
    constitution.write_text(dump_lock(without(load_constitution("telehealth"), "privacy")), encoding="utf-8")
    settings = [f"constitution={constitution}", "prompts.revise=80", "prompts.pairs=110", "prompts.evaluate=100"]
    recipe = load_recipe("quickstart", settings)
    path = run(recipe, root=tmp_path, until="40-dpo").path
    prompts = read_prompts(path / "prompts.jsonl", "evaluate")
    engines = {policy: load_policy(path, policy) for policy in ("base", "dpo")}
    answers = answer_prompts(prompts, recipe.evaluate, engines, tmp_path / "answers.jsonl", recipe.seed, Silent())
    truth = truth_results(prompts, check_answers(prompts, answers, check), draw(len(prompts), 2, 0))["policies"]
    base, dpo = (truth[policy]["adherence_by_principle"] for policy in ("base", "dpo"))
    gains = {principle: dpo[principle]["value"] - base[principle]["value"] for principle in base}
    assert abs(gains.pop("privacy")) <= 0.25
    assert fmean(gains.values()) >= 0.25
