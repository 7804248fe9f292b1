"""What a plan says of a stage against everything that lives in a whole run of it, tensor by tensor, on toy models."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rlaif_dpo.engines.transformers import TransformersEngine
from rlaif_dpo.messages import user
from rlaif_dpo.models.cards import Card
from rlaif_dpo.models.load import LoadedModel
from rlaif_dpo.models.memory import CONTEXT, Memory, adapter_parameters
from rlaif_dpo.pipeline.fitting import worst_phases
from rlaif_dpo.pipeline.stage_memory import stage_memory
from rlaif_dpo.progress import Silent
from rlaif_dpo.prompts.rows import PromptRow
from rlaif_dpo.recipe import Recipe
from rlaif_dpo.recipe.schema import Model
from rlaif_dpo.train.grpo import run_grpo
from rlaif_dpo.train.ppo import run_ppo
from rlaif_dpo.train.reward import RewardModel
from tests.models.peak import Peak
from tests.models.test_memory import load, narrow_tile, placed, within  # noqa: F401 (a fixture)
from tests.models.test_memory_roles import LORA, everything, saved_adapter

NEW, ANSWERS = 24, 8
ROLLOUTS: dict[str, Any] = {
    "updates": 2, "batch_size": ANSWERS, "baseline_samples": ANSWERS, "max_new_tokens": NEW, "tripwires": "warn", "lr": 1e-6,
}  # fmt: skip
PPO = ROLLOUTS | {"minibatch_size": 4, "epochs": 1}
GRPO = ROLLOUTS | {"group_size": 2}
LEARNING, SAMPLING = {"micro_batch_size": 2}, {"micro_batch_size": 1, "gradient_checkpointing": True}
"""What makes the one or the other the worst instant: with one answer sampled at once, and with all of them."""


def estimated(recipe: Recipe, loaded: LoadedModel, prompt: int) -> Memory:
    """The plan's 41-ppo, 41-grpo or 41-rloo, for prompts of so many tokens."""
    phases = {name: replace(phase, mean_tokens=prompt, max_tokens=prompt) for name, phase in worst_phases(recipe).items()}
    found = stage_memory(recipe, {"same": placed(loaded).shapes}, phases, Card("CPU", 2**40, None))
    return next(stage for stage in found if stage.stage == f"41-{recipe.optimizer}")


@pytest.mark.slow
@pytest.mark.usefixtures("narrow_tile")
@pytest.mark.parametrize(("optimizer", "at_once"), [("ppo", 1), ("ppo", ANSWERS), ("grpo", ANSWERS), ("rloo", 1)])
def test_peak_of_a_whole_run(tmp_path: Path, optimizer: str, at_once: int) -> None:
    """Two updates with a reward model: what lives at the worst instant, gradients among it where that is learning."""
    loaded = load(tmp_path, "llama-3")
    adapter = saved_adapter(loaded, tmp_path)
    prompts = [PromptRow(f"p{n}", (user("a" * (60 + n % 2)),)) for n in range(ANSWERS)]
    prompt = TransformersEngine(loaded).count_tokens(prompts[1].messages)
    model = Model.model_validate({"path": "m", "max_batch_tokens": at_once * (prompt + NEW)})
    how = LEARNING if at_once == 1 else SAMPLING
    sections = {"lora": LORA, "model": model, "ppo": PPO | how, "grpo": GRPO | how}
    recipe = Recipe.model_validate({"name": "r", "optimizer": optimizer, **sections})
    known, budget = everything(loaded), recipe.model.max_batch_tokens
    with Peak(known) as counted:
        reward = RewardModel(loaded, adapter, budget)
        common = {"reward_name": "model", "max_batch_tokens": budget}
        if optimizer == "ppo":
            run_ppo(prompts, loaded, adapter, reward, recipe.ppo, tmp_path, 0, Silent(), value_from=adapter, **common)
        else:
            run_grpo(prompts, loaded, adapter, reward, recipe.grpo, optimizer, tmp_path, 0, Silent(), **common)  # type: ignore[arg-type]
    estimate = estimated(recipe, loaded, prompt)
    predicted = estimate.total - estimate.parts["weights"] - CONTEXT["cpu"]
    print(f"RUN {optimizer} {at_once=} {predicted / counted.peak:.3f}")
    assert within(predicted, counted.peak)
    trained = (2 if optimizer == "ppo" else 1) * adapter_parameters(placed(loaded).shapes, LORA)
    assert estimate.parts["optimiser"] == (4 + 8 if at_once == 1 else 8) * trained
