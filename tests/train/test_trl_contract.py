"""What `trl_adapter` takes for granted of trl. A failure here after an update names what to look at."""

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from peft import PeftModel
from trl.trainer.base_trainer import _BaseTrainer
from trl.trainer.dpo_config import DPOConfig
from trl.trainer.dpo_trainer import DataCollatorForPreference, DPOTrainer
from trl.trainer.grpo_trainer import GRPOTrainer
from trl.trainer.rloo_trainer import RLOOTrainer
from trl.trainer.sft_trainer import SFTTrainer

from rlaif_dpo.models.chat import TEMPLATE_VARIABLES
from rlaif_dpo.models.load import LoadedModel
from rlaif_dpo.recipe.training import Dpo, Grpo
from rlaif_dpo.train.data import take_census
from rlaif_dpo.train.rollout import Episode
from rlaif_dpo.train.trl_adapter import SoftDPOTrainer, SoftPreferenceCollator, dpo_trainer, rollout_trainer
from tests.train.conftest import preference_rows

Load = Callable[..., LoadedModel]
PRIVATE = ("_compute_loss", "_prepare_dataset", "_precompute_ref_logps", "_set_signature_columns_if_needed", "_send_telemetry")


def parameters_of(function: Callable[..., Any]) -> list[str]:
    return list(inspect.signature(function).parameters)


def test_what_we_override_exists_and_is_called_as_before() -> None:
    assert parameters_of(DPOTrainer._compute_loss) == ["self", "model", "inputs", "return_outputs"]
    assert parameters_of(DPOTrainer.compute_ref_log_probs) == ["self", "model", "inputs"]
    assert parameters_of(DPOTrainer._prepare_dataset)[:2] == ["self", "dataset"]
    assert parameters_of(DPOTrainer._set_signature_columns_if_needed) == ["self"]
    for trainer in (DPOTrainer, SFTTrainer, GRPOTrainer, RLOOTrainer):
        assert issubclass(trainer, _BaseTrainer)
    assert parameters_of(_BaseTrainer._send_telemetry) == ["self"]
    assert "create_model_card" in vars(_BaseTrainer)
    assert {"epoch_iterator", "num_batches"} <= set(parameters_of(DPOTrainer.get_batch_samples))
    assert parameters_of(DPOTrainer._precompute_ref_logps) == ["self", "dataset", "name", "batch_size"]
    assert parameters_of(SFTTrainer._get_train_sampler) == ["self", "train_dataset"]
    # Our mean over a micro-batch is scaled by transformers for accumulation, not by the loss.
    assert DPOTrainer.loss_is_scaled_for_ga is False


def test_the_collator_gives_the_keys_we_read() -> None:
    examples = [
        {
            "prompt_ids": [1, 2],
            "chosen_ids": [3],
            "rejected_ids": [4, 5],
            "ref_chosen_logps": -1.0,
            "ref_rejected_logps": -2.0,
            "p": 0.7,
            "weight": 1.0,
        }
    ]
    expected = DataCollatorForPreference(pad_token_id=0)(examples)
    got = SoftPreferenceCollator(pad_token_id=0)(examples)
    assert set(expected) == {"input_ids", "attention_mask", "completion_mask", "ref_chosen_logps", "ref_rejected_logps"}
    assert got.pop("p").tolist() == pytest.approx([0.7]) and got.pop("weight").tolist() == [1.0]
    assert all(torch.equal(got[key], expected[key]) for key in expected)
    assert got["input_ids"].tolist() == [[1, 2, 3, 0], [1, 2, 4, 5]]


@pytest.fixture
def pair_of_policies(load: Load, sft_adapter: Path) -> tuple[PeftModel, PeftModel, LoadedModel]:
    ours, theirs = load(), load()
    models = [PeftModel.from_pretrained(loaded.model, str(sft_adapter), is_trainable=True) for loaded in (ours, theirs)]
    return models[0], models[1], ours


def losses_of(trainer: DPOTrainer) -> list[float]:
    trainer.train()
    return [row["loss"] for row in trainer.state.log_history if "loss" in row]


@pytest.mark.slow
def test_certain_labels_train_as_stock_trl_does(
    pair_of_policies: tuple[PeftModel, PeftModel, LoadedModel], tmp_path: Path
) -> None:
    """p = 1: the same rows (tokenised by trl there), the same adapter, the same seed; losses equal to 1e-6 over 6 steps."""
    ours, theirs, loaded = pair_of_policies
    rows = preference_rows(12, p=1.0)
    settings = Dpo(batch_size=4, micro_batch_size=2, lr=1e-3, epochs=2)
    examples = take_census(rows, ("chosen", "rejected"), loaded, 512).examples
    trainer = dpo_trainer(ours, examples, [], loaded, settings, tmp_path / "ours", 7)
    stock = DPOTrainer(
        model=theirs,
        args=DPOConfig(
            output_dir=str(tmp_path / "theirs"),
            beta=settings.beta,
            learning_rate=settings.lr,
            num_train_epochs=2,
            per_device_train_batch_size=2,
            gradient_accumulation_steps=2,
            warmup_steps=trainer.args.warmup_steps,
            precompute_ref_log_probs=True,
            gradient_checkpointing=False,
            use_cpu=True,
            bf16=False,
            seed=7,
            data_seed=7,
            logging_steps=1,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
        ),
        train_dataset=Dataset.from_list(
            [
                {key: row[key] for key in ("prompt", "chosen", "rejected")} | {"chat_template_kwargs": TEMPLATE_VARIABLES}
                for row in rows
            ]
        ),
        processing_class=loaded.tokenizer,
    )
    for column in ("prompt_ids", "chosen_ids", "rejected_ids", "ref_chosen_logps", "ref_rejected_logps"):
        assert trainer.train_dataset[column][:] == stock.train_dataset[column][:], column
    expected, got = losses_of(stock), losses_of(trainer)
    assert len(got) == 6
    assert got == pytest.approx(expected, abs=1e-6)
    shared = {"rewards/chosen", "rewards/rejected", "rewards/margins", "rewards/accuracies", "logps/chosen", "logps/rejected"}
    for name in (*shared, "num_tokens"):
        a, b = ([row[name] for row in t.state.log_history if name in row] for t in (trainer, stock))
        assert len(a) == 6 and a == pytest.approx(b, abs=1e-5), name
    for (name, a), b in zip(trainer.model.named_parameters(), stock.model.parameters(), strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=0, msg=name)


def test_soft_labels_reach_the_loss(pair_of_policies: tuple[PeftModel, PeftModel, LoadedModel], tmp_path: Path) -> None:
    """With h the reward margins of the batch, the loss is mean(-log sigma(h) + (1 - p) h) + nll * mean(-log pi_w / |y_w|)."""
    policy, _, loaded = pair_of_policies
    settings = Dpo(batch_size=4, beta=0.3, nll=0.2)
    examples = take_census(preference_rows(4), ("chosen", "rejected"), loaded, 512).examples
    trainer = dpo_trainer(policy, examples, [], loaded, settings, tmp_path, 0)
    with torch.no_grad():
        for name, parameter in policy.named_parameters():
            if "lora_B.default" in name:
                parameter.mul_(1.5)
    scores = trainer.score(trainer.train_dataset)
    assert [score.p for score in scores] == pytest.approx([0.6, 0.64, 0.68, 0.72])
    assert [score.chosen_tokens for score in scores] == [len(example.completions[0]) for example in examples]
    margin = torch.tensor([score.margin for score in scores])
    assert margin.abs().min() > 1e-3
    h, p = 0.3 * margin, torch.tensor([0.6, 0.64, 0.68, 0.72])
    batch = trainer._prepare_inputs(trainer.data_collator([trainer.train_dataset[i] for i in range(4)]))
    loss = trainer.compute_loss(trainer.model, batch).item()
    chosen = torch.tensor([score.chosen_logratio for score in scores]) + batch["ref_chosen_logps"]
    likelihood = (-chosen / torch.tensor([score.chosen_tokens for score in scores])).mean()
    expected = (torch.nn.functional.softplus(-h) + (1 - p) * h).mean() + 0.2 * likelihood
    assert loss == pytest.approx(expected.item(), abs=1e-5)


def test_a_reference_pass_never_sees_the_label(
    pair_of_policies: tuple[PeftModel, PeftModel, LoadedModel], tmp_path: Path
) -> None:
    policy, _, loaded = pair_of_policies
    examples = take_census(preference_rows(4), ("chosen", "rejected"), loaded, 512).examples
    trainer = dpo_trainer(policy, examples, [], loaded, Dpo(batch_size=4), tmp_path, 0)
    assert isinstance(trainer, SoftDPOTrainer)
    assert {"p", "prompt_ids", "ref_chosen_logps"} <= set(next(iter(trainer.get_train_dataloader())).keys()) | {"prompt_ids"}
    assert "p" in trainer._signature_columns


def test_the_reference_is_a_frozen_copy_of_the_sft_adapter(
    pair_of_policies: tuple[PeftModel, PeftModel, LoadedModel], tmp_path: Path
) -> None:
    policy, _, loaded = pair_of_policies
    examples = take_census(preference_rows(4), ("chosen", "rejected"), loaded, 512).examples
    dpo_trainer(policy, examples, [], loaded, Dpo(batch_size=4), tmp_path, 0)
    parameters = dict(policy.named_parameters())
    assert set(policy.peft_config) == {"default", "ref"}
    trainable = [name for name, parameter in parameters.items() if parameter.requires_grad]
    assert trainable and all(".default." in name for name in trainable)
    for name in trainable:
        assert torch.equal(parameters[name], parameters[name.replace(".default.", ".ref.")])


@pytest.mark.parametrize("trainer", [GRPOTrainer, RLOOTrainer])
def test_what_we_override_of_the_trainers_that_sample(trainer: Any) -> None:
    """Their answers come through two methods, are passed through the model in one, and are learned from in batches of one."""
    assert parameters_of(trainer._tokenize_prompts) == ["self", "prompts"]
    assert parameters_of(trainer._generate_single_turn)[:4] == ["self", "prompt_ids", "images", "multimodal_fields"]
    assert parameters_of(trainer._generate_and_score_completions) == ["self", "inputs"]
    assert parameters_of(trainer._get_per_token_logps_and_entropies)[:6] == [
        "self", "model", "input_ids", "attention_mask", "logits_to_keep", "batch_size",
    ]  # fmt: skip
    assert "compute_entropy" in parameters_of(trainer._get_per_token_logps_and_entropies)
    assert parameters_of(trainer.log) == ["self", "logs", "start_time"]


def test_advantages_are_those_of_the_papers(load: Load, sft_adapter: Path, tmp_path: Path) -> None:
    """Rewards 1, 0, 0, 0 and 1, 0, 0, 1 of two groups, no KL. GRPO by trl: (r - mean) / (s + 1e-4), with s the standard deviation
    with Bessel's correction: .75 / .5001 = 1.4997, -.25 / .5001 = -.4999; .5 / .57745 = .86588. RLOO: r less the mean of the
    others: 1, -1/3; 2/3, -2/3. What is not had (None) has the advantage 0 and counts in no mean: 1, None, 0, 0 is 1 - 0 and -1/2.
    """
    rewards: list[float | None] = [1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 1.0]
    seen: dict[str, list[float]] = {}

    class Eight:
        def sample(self, update: int) -> list[Episode]:
            return [Episode(f"{i}", "p", "x", [5, 6], [7 + i, 2], True, 0.0) for i in range(8)]

        def reward(self, episode: Episode) -> float | None:
            return rewards[int(episode.id)]

        def look(
            self, update: int, episodes: Any, kl: torch.Tensor, entropy: torch.Tensor, mask: torch.Tensor
        ) -> dict[str, float]:
            assert kl.shape == entropy.shape == mask.shape == (8, 2) and mask.all() and not kl.any() and (entropy > 0).all()
            return {}

    def advantages(method: str) -> list[float]:
        loaded = load()
        policy = PeftModel.from_pretrained(loaded.model, str(sft_adapter), is_trainable=True)
        loaded.model = policy
        made = Grpo(updates=1, batch_size=8, group_size=4, kl_coef=0.0, max_new_tokens=2)
        trainer = rollout_trainer(policy, Eight(), loaded, sft_adapter, made, method, tmp_path / method, 0)
        batch = trainer._generate_and_score_completions([{"prompt": ""}] * 8)
        assert batch["completion_ids"].tolist() == [[7 + i, 2] for i in range(8)]
        return [round(value, 4) for value in batch["advantages"].tolist()]

    seen["grpo"], seen["rloo"] = advantages("grpo"), advantages("rloo")
    assert seen["grpo"] == pytest.approx([1.4997, -0.4999, -0.4999, -0.4999, 0.8659, -0.8659, -0.8659, 0.8659], abs=1e-4)
    assert seen["rloo"] == pytest.approx([1, -1 / 3, -1 / 3, -1 / 3, 2 / 3, -2 / 3, -2 / 3, 2 / 3], abs=1e-4)
    rewards[1] = None
    assert advantages("rloo")[:4] == pytest.approx([1.0, 0.0, -0.5, -0.5], abs=1e-4)
    rewards[:4] = [1.0, 1.0, 1.0, 1.0]
    assert advantages("grpo")[:4] == [0.0] * 4


@pytest.mark.parametrize("name", PRIVATE)
def test_private_names_exist(name: str) -> None:
    assert callable(getattr(DPOTrainer, name))
