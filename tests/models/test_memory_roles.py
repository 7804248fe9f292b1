"""The estimate of learning with several roles on one base against what torch really holds: on toy models, on the CPU."""

import gc
from pathlib import Path

import pytest
import torch

from rlaif_dpo.engines.transformers import TransformersEngine
from rlaif_dpo.messages import user
from rlaif_dpo.models.adapters import add_adapter
from rlaif_dpo.models.load import LoadedModel
from rlaif_dpo.models.memory import CONTEXT, adapter_parameters, reward_scoring_memory
from rlaif_dpo.models.memory_roles import LOGIT_CHUNK, ppo_memory, reward_memory
from rlaif_dpo.recipe.training import Lora, Ppo, Reward
from rlaif_dpo.train import roles
from rlaif_dpo.train.baseline import Baseline
from rlaif_dpo.train.data import Example
from rlaif_dpo.train.loop import continue_adapter, save_adapter, training
from rlaif_dpo.train.optimise import Optimiser, without_dropout
from rlaif_dpo.train.ppo import REFERENCE, VALUE, Learner
from rlaif_dpo.train.reward import RewardModel, _step
from rlaif_dpo.train.rollout import Episode
from rlaif_dpo.train.sft import new_adapter
from tests.models.peak import Peak
from tests.models.test_memory import LENGTH, PROMPT, load, placed, within

LORA = Lora(dropout=0.1)
CASES = [("llama-3", "float32", False), ("llama-3", "bfloat16", True), ("gemma-2", "bfloat16", False)]
BASELINE = Baseline(2, 0.0, 1.0, 50.0, 2.0, 2, 0.5, ("a", "b"))


def saved_adapter(loaded: LoadedModel, folder: Path) -> Path:
    """An adapter, and with it a reward head, as a stage leaves it."""
    with training(loaded, lambda base: new_adapter(base, LORA, 0)) as policy:
        save_adapter(policy, folder, {"template_hash": loaded.template_hash}, roles.new_head(loaded, 0).weight)
    return folder / "adapter"


def ids(count: int, seed: int) -> list[int]:
    """Of words, none of which ends a turn."""
    return torch.randint(10, 250, (count,), generator=torch.Generator().manual_seed(seed)).tolist()


def everything(loaded: LoadedModel, *others: torch.nn.Module) -> list[torch.Tensor]:
    gc.collect()
    return [tensor for module in (loaded.model, *others) for tensor in (*module.parameters(), *module.buffers())]


def test_the_chunk_of_logits_is_that_of_the_roles() -> None:
    assert LOGIT_CHUNK == roles.LOGIT_CHUNK


@pytest.mark.slow
@pytest.mark.parametrize(("family", "dtype", "checkpointing"), CASES)
def test_peak_of_a_step_of_the_reward_model(tmp_path: Path, family: str, dtype: str, checkpointing: bool) -> None:
    """Two pairs of answers, one pass, the gradients, and a step of Adam."""
    loaded = load(tmp_path, family, dtype)
    adapter = saved_adapter(loaded, tmp_path)
    settings = Reward(batch_size=2, gradient_checkpointing=checkpointing)
    end = loaded.tokenizer.eos_token_id
    answers = [tuple([*ids(LENGTH - PROMPT - 1 - 20 * n - 10 * which, n), end] for which in (0, 1)) for n in (0, 1)]
    rows = [Example({"id": str(n), "p": 0.7}, ids(PROMPT, n), answers[n]) for n in (0, 1)]
    with training(loaded, lambda base: continue_adapter(base, adapter, loaded)) as model:
        loaded.model = model
        head = roles.new_head(loaded, 0)
        optimiser = Optimiser(
            {"reward": ([*roles.adapter_parameters(loaded, "default"), *head.parameters()], 1e-4)}, settings, 2, loaded
        )
        with without_dropout(model, checkpointing), Peak(everything(loaded, head)) as counted:
            _step(rows, loaded, head, optimiser, settings)
    estimate = reward_memory("40-reward", placed(loaded), LORA, settings, LENGTH)
    trained = adapter_parameters(placed(loaded).shapes, LORA)
    predicted = estimate.parts["activations"] + estimate.parts["other"] - CONTEXT["cpu"] + 4 * trained
    print(f"REWARD {family:8} {dtype:8} {checkpointing=} {predicted / counted.peak:.3f}")
    assert within(predicted, counted.peak)


@pytest.mark.slow
@pytest.mark.parametrize(("family", "dtype", "checkpointing"), CASES)
def test_peak_of_an_update_of_ppo(tmp_path: Path, family: str, dtype: str, checkpointing: bool) -> None:
    """Measured under three roles, learned from in two micro-batches of two answers, and a step of Adam for policy and value."""
    loaded = load(tmp_path, family, dtype)
    adapter = saved_adapter(loaded, tmp_path)
    settings = Ppo(
        batch_size=4, minibatch_size=4, micro_batch_size=2, epochs=1, updates=1, gradient_checkpointing=checkpointing,
        max_new_tokens=LENGTH - PROMPT,
    )  # fmt: skip
    new = LENGTH - PROMPT
    episodes = [
        Episode(str(n), f"p{n}", "yes", ids(PROMPT - n, n), ids(new - 10 * n, n), ended=True, score=float(n)) for n in range(4)
    ]
    with training(loaded, lambda base: continue_adapter(base, adapter, loaded)) as policy:
        loaded.model = policy
        for role in (REFERENCE, VALUE, "reward"):
            add_adapter(loaded, adapter, role)
        head = roles.new_head(loaded, 0, bias=True)
        with without_dropout(policy, checkpointing):
            learner = Learner(loaded, settings, 0, BASELINE, 1.0, head, lambda step, episodes: {})
            known = everything(loaded, head)
            with Peak(known) as counted:
                learner.update(episodes, 2)
        held = sum(p.numel() * p.element_size() for n, p in policy.named_parameters() if "lora_" in n)
    estimate = ppo_memory("41-ppo", placed(loaded), LORA, settings, LENGTH)
    trained = adapter_parameters(placed(loaded).shapes, LORA)
    predicted = sum(estimate.parts[part] for part in ("activations", "logits", "other")) - CONTEXT["cpu"] + 2 * 4 * trained
    print(f"PPO {family:8} {dtype:8} {checkpointing=} {predicted / counted.peak:.3f}")
    assert within(predicted, counted.peak)
    assert estimate.parts["adapters"] == held == 4 * 4 * trained and estimate.parts["optimiser"] == 2 * 12 * trained


@pytest.mark.slow
def test_peak_of_scoring_by_a_reward_model(tmp_path: Path) -> None:
    """8 answers in one batch."""
    loaded = load(tmp_path, "llama-3", "bfloat16")
    adapter = saved_adapter(loaded, tmp_path)
    add_adapter(loaded, adapter, "policy")
    reward = RewardModel(loaded, adapter)
    answers = [((user("a" * 40),), "b" * (100 - n)) for n in range(8)]
    reward(answers[:1])  # the adapter joins the base
    longest = TransformersEngine(loaded).count_tokens([user("a" * 40)]) + 100 + 1  # and the end of the turn
    with Peak(everything(loaded, reward._head)) as counted:
        reward(answers)
    estimate = reward_scoring_memory("41-ppo", placed(loaded), 8 * longest, longest, 0)
    print(f"SCORED {estimate.parts['activations'] / counted.peak:.3f}")
    assert within(estimate.parts["activations"], counted.peak)
