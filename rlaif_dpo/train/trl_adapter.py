"""The only file that imports trl: trainers of ours over tokens of ours, on models that we loaded.

tests/train/test_trl_contract.py names every private part of trl used here, and fails when a new version changes one.
"""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, cast

os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"

import torch
from accelerate.utils import gather_object
from datasets import Dataset
from peft import PeftModel
from torch import Tensor
from trl.trainer.dpo_config import DPOConfig
from trl.trainer.dpo_trainer import DataCollatorForPreference, DPOTrainer
from trl.trainer.grpo_config import GRPOConfig
from trl.trainer.grpo_trainer import GRPOTrainer
from trl.trainer.rloo_config import RLOOConfig
from trl.trainer.rloo_trainer import RLOOTrainer
from trl.trainer.sft_config import SFTConfig
from trl.trainer.sft_trainer import SFTTrainer

from rlaif_dpo.models.adapters import add_adapter, use_adapter
from rlaif_dpo.models.load import LoadedModel
from rlaif_dpo.recipe.training import Dpo, Grpo, Sft
from rlaif_dpo.train.arguments import finish, one_gpu, quiet, shared_arguments, steps_per_epoch
from rlaif_dpo.train.data import Example
from rlaif_dpo.train.health import PairScore
from rlaif_dpo.train.loop import NO_TRACKING, Tracking, trainer_seed
from rlaif_dpo.train.losses import constrained_sft, nll, preference_loss
from rlaif_dpo.train.processes import EvenOrder, padding, world_size
from rlaif_dpo.train.rollout import Episode

IGNORED = -100
OURS = ("p", "weight")
"""Columns of pairs that trl does not know: P(chosen is better), and 1; 0 for padding."""
Batch = dict[str, Any]


@dataclass
class SoftPreferenceCollator(DataCollatorForPreference):
    """trl's collator (chosen rows first, then rejected ones), with `p` and `weight` (rows,) beside the tokens."""

    def torch_call(self, examples: list[Batch]) -> Batch:
        batch: Batch = super().torch_call(examples)
        for column in OURS:
            batch[column] = torch.tensor([example[column] for example in examples], dtype=torch.float32)
        return batch


class Quiet:
    """What our trainers have in common: no telemetry, no model card, the same order of rows whatever the number of processes.

    Attributes:
        rows: Of `train_dataset`, those that are learned from; the others are `padding`.
    """

    rows: int

    def _send_telemetry(self) -> None:
        pass

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        pass

    def _get_train_sampler(self: Any, *args: Any) -> Any:
        if world_size() > 1:
            return EvenOrder(self.rows, len(self.train_dataset) - self.rows, self.args.data_seed)
        trl: Any = super()
        return trl._get_train_sampler(*args)


class QuietSFTTrainer(Quiet, SFTTrainer):
    """SFT."""


class ConstrainedSFTTrainer(QuietSFTTrainer):
    """SFT that holds the first tokens of answers near the model without its adapter (`constrained_sft` in losses.py)."""

    def compute_loss(
        self, model: Any, inputs: Batch, return_outputs: bool = False, num_items_in_batch: Tensor | int | None = None
    ) -> Tensor:
        """The mean loss per token; the metrics that the curve needs, under trl's names."""
        if return_outputs:
            raise NotImplementedError("ConstrainedSFTTrainer gives the loss only")
        known = {**inputs, "use_cache": False, "fused_lm_head": True}
        with torch.no_grad(), cast(PeftModel, self.model).disable_adapter():
            start = model(**known).log_probs
        outputs = model(**known)
        mask = outputs.label_mask.bool()
        losses = constrained_sft(outputs.log_probs, start, mask.cumsum(dim=1))[mask]
        tokens = len(losses) if num_items_in_batch is None else num_items_in_batch
        self._total_train_tokens += int(inputs["attention_mask"].sum())
        self._metrics["train"]["num_tokens"] = [self._total_train_tokens]
        self._metrics["train"]["nll"].append(-outputs.log_probs.detach()[mask].mean().item())
        return losses.sum() / tokens


class SoftDPOTrainer(Quiet, DPOTrainer):
    """DPO whose labels are probabilities: the loss of each pair takes its own `p` (see losses.py).

    The rows come tokenised.
    """

    def __init__(self, preference: Dpo, **kwargs: Any) -> None:
        self._preference = preference
        self._mean_rows: float | None = None
        super().__init__(**kwargs)

    def _prepare_dataset(self, dataset: Dataset, *args: Any) -> Dataset:
        return dataset

    def _set_signature_columns_if_needed(self) -> None:
        super()._set_signature_columns_if_needed()  # type: ignore[no-untyped-call]
        self._signature_columns = sorted({*(self._signature_columns or ()), *OURS})  # type: ignore[assignment]

    def get_batch_samples(self, *args: Any, **kwargs: Any) -> tuple[list[Batch], Any]:
        samples, items = super().get_batch_samples(*args, **kwargs)
        rows = torch.tensor(sum(float(batch["weight"].sum()) for batch in samples), device=self.accelerator.device)
        self._mean_rows = self.accelerator.reduce(rows, "sum").item() / max(1, len(samples) * world_size())
        return samples, items

    def compute_ref_log_probs(self, model: Any, inputs: Batch) -> tuple[Tensor, Tensor]:
        # The original hands every key it does not know to the model.
        known = {key: value for key, value in inputs.items() if key not in OURS}
        chosen, rejected = super().compute_ref_log_probs(model, known)  # type: ignore[no-untyped-call]
        return chosen, rejected

    def _precompute_ref_logps(self, dataset: Dataset, name: str, batch_size: int) -> Dataset:
        # trl hands them on in a file of a folder that only one process knows.
        rows = self._in_batches(dataset, lambda batch: self.compute_ref_log_probs(self.model, batch))
        for column, values in zip(("ref_chosen_logps", "ref_rejected_logps"), zip(*rows, strict=True), strict=True):
            dataset = dataset.add_column(column, list(values))
        return dataset

    def _compute_loss(self, model: Any, inputs: Batch, return_outputs: bool = False) -> Tensor:
        """A micro-batch's part in the mean loss of its step; trl's own metrics, and `expected_accuracy`, under trl's names."""
        if return_outputs:
            raise NotImplementedError("SoftDPOTrainer gives the loss only")
        settings = self._preference
        chosen, rejected = self._log_probs(model, inputs)
        chosen_tokens, _ = self._lengths(inputs)
        chosen_ratio, rejected_ratio = chosen - inputs["ref_chosen_logps"], rejected - inputs["ref_rejected_logps"]
        margin, p = chosen_ratio - rejected_ratio, inputs["p"]
        rows = preference_loss(settings.loss, margin, p, settings.beta, settings.label_noise)
        likelihood, weight = nll(chosen, chosen_tokens), inputs["weight"]
        agrees = (margin > 0).float()
        self._record(
            {
                "rewards/chosen": settings.beta * chosen_ratio,
                "rewards/rejected": settings.beta * rejected_ratio,
                "rewards/margins": settings.beta * margin,
                "rewards/accuracies": agrees,
                "rewards/expected_accuracy": p * agrees + (1 - p) * (1 - agrees),
                "logps/chosen": chosen,
                "logps/rejected": rejected,
                "drift/chosen": chosen_ratio / chosen_tokens,
                "nll": likelihood,
            },
            inputs,
        )
        # transformers divides by the micro-batches of the step, of which the last in an epoch may have fewer rows. Divided by
        # their mean number here, every row of a step counts the same.
        loss: Tensor = ((rows + settings.nll * likelihood) * weight).sum() / (self._mean_rows or weight.sum())
        return loss

    def score(self, dataset: Dataset) -> list[PairScore]:
        """Every pair of a dataset under the policy as it stands, in order."""
        model = cast(PeftModel, self.model)

        def columns(batch: Batch) -> tuple[Tensor, ...]:
            with torch.no_grad(), self.accelerator.autocast():
                chosen, rejected = self._log_probs(model, batch)
            ratios = chosen - batch["ref_chosen_logps"], rejected - batch["ref_rejected_logps"]
            return *ratios, *self._lengths(batch), batch["p"]

        training = model.training
        model.eval()
        scores = [PairScore(*values) for values in self._in_batches(dataset, columns)]
        model.train(training)
        return scores

    def _in_batches(self, dataset: Dataset, of: Callable[[Batch], tuple[Tensor, ...]]) -> list[tuple[Any, ...]]:
        """What `of` makes of batches of a dataset, a tuple a row, in its order. Each process does its share of the rows."""
        rank, size = self.accelerator.process_index, self.args.per_device_train_batch_size
        begin, end = (len(dataset) * part // world_size() for part in (rank, rank + 1))
        found: list[tuple[Any, ...]] = []
        for start in range(begin, end, size):
            rows = [dataset[i] for i in range(start, min(start + size, end))]
            batch = self._prepare_inputs(self.data_collator(rows))
            found += zip(*(column.tolist() for column in of(batch)), strict=True)
        return list(gather_object(found))

    def _log_probs(self, model: Any, inputs: Batch) -> tuple[Tensor, Tensor]:
        """log pi of the chosen and of the rejected completions, each (rows,), summed over tokens."""
        labels = inputs["input_ids"].masked_fill(inputs["completion_mask"] == 0, IGNORED)
        outputs = model(
            input_ids=inputs["input_ids"],
            attention_mask=inputs["attention_mask"],
            labels=labels,
            use_cache=False,
            fused_lm_head=True,
        )
        chosen, rejected = outputs.log_probs.sum(dim=1).chunk(2)
        return chosen, rejected

    def _lengths(self, inputs: Batch) -> tuple[Tensor, Tensor]:
        """Completion tokens of the chosen and of the rejected answers, each (rows,)."""
        chosen, rejected = inputs["completion_mask"].sum(dim=1).chunk(2)
        return chosen, rejected

    def _record(self, values: dict[str, Tensor], inputs: Batch) -> None:
        """The means of `values`, each (rows,), over the micro-batches of all processes; and their tokens."""
        weight, tokens = inputs["weight"], inputs["attention_mask"].sum(dim=1)
        sums = [(value.detach().float() * weight).sum() for value in values.values()]
        counts = [weight.sum(), (tokens * weight.repeat(2)).sum()]
        *means, rows, seen = self.accelerator.reduce(torch.stack(sums + counts), "sum").tolist()
        for name, total in zip(values, means, strict=True):
            self._metrics["train"][name].append(total / rows)
        self._total_train_tokens += int(seen)
        self._metrics["train"]["num_tokens"] = [self._total_train_tokens]


class Rollouts(Protocol):
    """Where the answers of an update come from, what they earn, and who looks at them before they are learned from."""

    def sample(self, update: int) -> list[Episode]:
        """The answers of update `update` (from 1), those to one prompt side by side."""
        ...

    def reward(self, episode: Episode) -> float | None:
        """What an answer earns; None: nothing is learned from it."""
        ...

    def look(self, update: int, episodes: Sequence[Episode], kl: Tensor, entropy: Tensor, mask: Tensor) -> dict[str, float]:
        """Columns of the update's row; kl = log pi - log pi_ref, entropy and mask are (answers, T). An exception ends it all."""
        ...


class RolloutTrainer(Quiet):
    """What our GRPO and RLOO have in common: trl's loss on answers that it is given.

    trl's dataset is a row of blanks; an update's prompts are those of its answers.
    """

    def __init__(self, rollouts: Rollouts, loaded: LoadedModel, **kwargs: Any) -> None:
        self._rollouts, self._loaded = rollouts, loaded
        self._episodes: list[Episode] = []
        self._passes: dict[str, tuple[Tensor, Tensor]] = {}
        self._tokens_seen = 0
        trl: Any = super()
        trl.__init__(reward_funcs=self._earned, **kwargs)

    def _earned(self, **kwargs: Any) -> list[float | None]:
        return [self._rollouts.reward(episode) for episode in self._episodes]

    def _generate_and_score_completions(self: Any, inputs: Any) -> Batch:
        trl: Any = super()
        update = self.state.global_step + 1
        self._episodes, self._passes = self._rollouts.sample(update), {}
        batch: Batch = trl._generate_and_score_completions(inputs)
        mask = batch["completion_mask"].bool()
        (logp, entropy), (ref_logp, _) = (self._pass(adapter, batch) for adapter in ("default", "ref"))
        row = self._rollouts.look(update, self._episodes, (logp - ref_logp) * mask, entropy * mask, mask)
        self._tokens_seen += int(mask.sum())
        self._row = row | {"num_tokens": self._tokens_seen}
        # trl now shuffles the answers by torch's own generator, whose state hangs on all that was computed before.
        torch.manual_seed(trainer_seed(self.args.seed, f"update {update}"))
        return batch

    def _tokenize_prompts(self, prompts: Any) -> tuple[list[list[int]], None, dict[str, Any]]:
        return [episode.prompt for episode in self._episodes], None, {}

    def _answers(self: Any) -> list[list[int]]:
        """The sampled tokens; an answer that could not be had, which earns nothing, is the end alone."""
        return [episode.answer or [self.eos_token_ids[0]] for episode in self._episodes]

    def _pass(self: Any, adapter: str, batch: Batch) -> tuple[Tensor, Tensor]:
        """log pi and entropy of every answer token under `adapter`, each (answers, T), of trl's own pass if it made one."""
        if adapter not in self._passes:
            ids = torch.cat([batch["prompt_ids"], batch["completion_ids"]], dim=1)
            seen = torch.cat([batch["prompt_mask"], batch["completion_mask"]], dim=1)
            width, size = batch["completion_ids"].shape[1], self.args.per_device_train_batch_size
            with use_adapter(self._loaded, adapter):
                self._get_per_token_logps_and_entropies(self.model, ids, seen, width, size)
        return cast(tuple[Tensor, Tensor], self._passes[adapter])

    def _get_per_token_logps_and_entropies(self: Any, *args: Any, **kwargs: Any) -> Any:
        trl: Any = super()
        if torch.is_grad_enabled():
            return trl._get_per_token_logps_and_entropies(*args, **kwargs)
        result = trl._get_per_token_logps_and_entropies(*args, **kwargs | {"compute_entropy": True})
        self._passes[self.model.active_adapter] = result[:2]
        return result

    def log(self: Any, logs: dict[str, float], start_time: float | None = None) -> None:
        """Only what `look` found: trl's own columns have other scales."""
        self._metrics["train"].clear()
        if "loss" in logs:
            self._metrics["train"].update({name: [value] for name, value in self._row.items()})
        trl: Any = super()
        trl.log(logs, start_time)


class QuietGRPOTrainer(RolloutTrainer, GRPOTrainer):
    """GRPO on answers that it is given."""

    def _generate_single_turn(self, *args: Any, **kwargs: Any) -> tuple[list[list[int]], None]:
        return self._answers(), None


class QuietRLOOTrainer(RolloutTrainer, RLOOTrainer):
    """RLOO on answers that it is given."""

    def _generate_single_turn(self, *args: Any, **kwargs: Any) -> list[list[int]]:
        return self._answers()


def sft_trainer(
    policy: PeftModel,
    examples: Sequence[Example],
    loaded: LoadedModel,
    settings: Sft,
    folder: Path,
    seed: int,
    tracking: Tracking = NO_TRACKING,
) -> SFTTrainer:
    """A trainer of `policy` on the completions only; trainable weights are float32."""
    rows = [{"input_ids": e.prompt + e.completions[0], "labels": [IGNORED] * len(e.prompt) + e.completions[0]} for e in examples]
    with quiet():
        config = SFTConfig(
            max_length=None,
            packing=False,
            dataset_kwargs={"skip_prepare_dataset": True},
            num_train_epochs=settings.epochs,
            **shared_arguments(
                settings, steps_per_epoch(settings, len(rows)) * settings.epochs, loaded, folder, seed, tracking, "sft"
            ),
        )
        one_gpu(config)
        blank = {"input_ids": rows[0]["input_ids"][:2], "labels": [IGNORED] * 2}
        rows += [blank] * padding(len(rows), config.per_device_train_batch_size)
        kind = ConstrainedSFTTrainer if settings.loss == "constrained" else QuietSFTTrainer
        trainer = kind(model=policy, args=config, train_dataset=Dataset.from_list(rows), processing_class=loaded.tokenizer)
    trainer.rows = len(examples)
    finish(trainer)
    return trainer


def dpo_trainer(
    policy: PeftModel,
    examples: Sequence[Example],
    held_out: Sequence[Example],
    loaded: LoadedModel,
    settings: Dpo,
    folder: Path,
    seed: int,
    tracking: Tracking = NO_TRACKING,
) -> SoftDPOTrainer:
    """A trainer of the adapter `default` of `policy`, with a frozen copy of it, `ref`, as the reference.

    The reference log-probabilities of `train_dataset` and `eval_dataset` are computed here, once.
    """
    with quiet():
        config = DPOConfig(
            beta=settings.beta,
            max_length=None,
            precompute_ref_log_probs=True,
            router_aux_loss_coef=0.0,
            num_train_epochs=settings.epochs,
            **shared_arguments(
                settings, steps_per_epoch(settings, len(examples)) * settings.epochs, loaded, folder, seed, tracking, "dpo"
            ),
        )
        one_gpu(config)
        trainer = SoftDPOTrainer(
            settings,
            model=policy,
            args=config,
            train_dataset=_pairs(examples, padding(len(examples), config.per_device_train_batch_size)),
            eval_dataset=_pairs(held_out) if held_out else None,
            processing_class=loaded.tokenizer,
            data_collator=SoftPreferenceCollator(pad_token_id=loaded.tokenizer.pad_token_id),
        )
    trainer.rows = len(examples)
    finish(trainer)
    _start_at_reference(policy)
    return trainer


def rollout_trainer(
    policy: PeftModel,
    rollouts: Rollouts,
    loaded: LoadedModel,
    sft_adapter: Path,
    settings: Grpo,
    method: str,
    folder: Path,
    seed: int,
) -> GRPOTrainer | RLOOTrainer:
    """A trainer of the adapter `default` of `policy` on `rollouts`, by `method` (grpo or rloo), one optimiser step an update.

    Its reference is the adapter `ref`, a frozen copy. It is there with a `kl_coef` of 0, too: KL is looked at.
    """
    blanks = Dataset.from_dict({"prompt": [""] * (settings.updates * settings.batch_size // settings.group_size)})
    with quiet():
        arguments = {
            "max_steps": settings.updates,
            "num_generations": settings.group_size,
            "max_completion_length": settings.max_new_tokens,
            "temperature": settings.temperature,
            "beta": settings.kl_coef,
            "shuffle_dataset": False,
            "router_aux_loss_coef": 0.0,
            **shared_arguments(settings, settings.updates, loaded, folder, seed, NO_TRACKING, method),
        }
        made: type[QuietGRPOTrainer] | type[QuietRLOOTrainer]
        config: GRPOConfig | RLOOConfig
        if method == "grpo":
            made, config = QuietGRPOTrainer, GRPOConfig(scale_rewards=settings.scale_rewards, **arguments)
        else:
            made, config = QuietRLOOTrainer, RLOOConfig(**arguments)
        one_gpu(config)
        trainer = made(rollouts, loaded, model=policy, args=config, train_dataset=blanks, processing_class=loaded.tokenizer)
    finish(trainer)
    if "ref" not in policy.peft_config:
        add_adapter(loaded, sft_adapter, "ref")
    _start_at_reference(policy)
    return trainer


def _start_at_reference(policy: PeftModel) -> None:
    """trl rounds the trainable copy to bfloat16 on a quantised base; the policy must start exactly at its reference."""
    parameters = dict(policy.named_parameters())
    with torch.no_grad():
        for name, parameter in parameters.items():
            if ".default." in name:
                parameter.copy_(parameters[name.replace(".default.", ".ref.")])


def _pairs(examples: Sequence[Example], padding: int = 0) -> Dataset:
    """A row for each pair, then the shortest pair again, as `padding`."""
    columns = ("prompt_ids", "chosen_ids", "rejected_ids", *OURS)
    weighted = [(e, 1.0) for e in examples] + [(min(examples, key=lambda e: e.length), 0.0)] * padding
    rows = ((e.prompt, *e.completions, float(e.row["p"]), weight) for e, weight in weighted)
    return Dataset.from_list([dict(zip(columns, row, strict=True)) for row in rows])
