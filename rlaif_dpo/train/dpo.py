"""Phase 2's last step: DPO on the judge's preferences, from the SFT adapter and with it as the reference."""

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, cast

import torch
from peft import PeftModel

from rlaif_dpo.files import write_json
from rlaif_dpo.models.load import LoadedModel
from rlaif_dpo.progress import Progress
from rlaif_dpo.prompts.rows import PromptRow
from rlaif_dpo.recipe.training import Dpo
from rlaif_dpo.train.data import read_preferences
from rlaif_dpo.train.health import health
from rlaif_dpo.train.loop import (
    NO_TRACKING,
    Tracking,
    continue_adapter,
    fit,
    open_work,
    remove_checkpoints,
    save_adapter,
    trainer_seed,
    training,
)
from rlaif_dpo.train.micro_batch import Event, in_micro_batches, nobody, trial_of
from rlaif_dpo.train.processes import is_main

if TYPE_CHECKING:
    from datasets import Dataset

    from rlaif_dpo.train.held_out import HeldOut
    from rlaif_dpo.train.trl_adapter import SoftDPOTrainer

# The reward margin at step 0 is 0 but for rounding. Policy and reference have the same weights and see the same batch, so float32
# is exact up to the order of sums; 16-bit activations have 8 (bfloat16) or 11 bits, and a sum over many tokens wanders more.
TOLERANCE = {torch.float32: 1e-4, torch.float16: 2e-2, torch.bfloat16: 5e-2}


def run_dpo(
    rows_path: Path,
    loaded: LoadedModel,
    sft_adapter: Path,
    settings: Dpo,
    folder: Path,
    seed: int,
    progress: Progress,
    tracking: Tracking = NO_TRACKING,
    event: Event = nobody,
    prompts: Sequence[PromptRow] = (),
    held_out: "HeldOut | None" = None,
    max_batch_tokens: int = 16384,
) -> dict[str, int]:
    """Continue the SFT adapter on rows of `id`, `prompt`, `chosen`, `rejected` (message lists) and `p` = P(chosen is better).

    The policy and its frozen copy, the reference, are two adapters on one base; the reference log-probabilities are computed
    once, before the first step. A tenth of the prompts is held out for the verdict. Writes `folder/census.json`, `metrics.jsonl`,
    `health.json`, and last `adapter/`: SFT and DPO in one adapter. A stopped run resumes from its last checkpoint; a finished one
    returns at once. `loaded.model` is the bare base afterwards.

    Where there are `prompts`, answers of the policy to them are looked at (`looks.py`), and `held_out` looks on; a tripwire may
    end the training early. Then the adapter is the policy that tripped it, and `health.json` says so.

    Returns:
        The funnel: rows in, dropped by reason, kept, and of these trained and held out.

    Raises:
        UserError: No row can be trained on, the SFT adapter is missing or made for another model or chat template, or the memory
            does not suffice.
        RuntimeError: The policy does not start at its reference.
    """
    pairs = read_preferences(rows_path, loaded, settings.max_length, folder)
    work = open_work("dpo", folder, pairs.rows, settings, loaded, seed, starts=[sft_adapter])
    if work is None:
        return pairs.funnel

    from rlaif_dpo.train.arguments import steps_per_epoch
    from rlaif_dpo.train.looks import Looks
    from rlaif_dpo.train.trl_adapter import dpo_trainer

    train, unseen, stage_seed = pairs.train, pairs.held_out, trainer_seed(seed, "dpo")

    def attach(base: Any) -> PeftModel:
        return continue_adapter(base, sft_adapter, loaded)

    def optimise(settings: Dpo) -> None:
        looks: Looks | None = None
        steps = steps_per_epoch(settings, len(train))
        with training(loaded, attach) as policy:
            trainer = dpo_trainer(policy, train, unseen, loaded, settings, work.checkpoints, stage_seed, tracking)
            check_start(trainer, settings, loaded.dtype)
            if prompts and settings.looks.times:
                loaded.model, total = policy, steps * settings.epochs
                looks = Looks(
                    prompts, loaded, settings, folder, work.checkpoints, total, seed, progress, held_out, max_batch_tokens
                )
                trainer.add_callback(looks)
            curve = fit(trainer, folder, steps, len(train), settings.epochs, progress, "DPO")
            # After the rows that are trained on may come some that only fill up a batch (several processes).
            rows = trainer.eval_dataset if unseen else cast("Dataset", trainer.train_dataset).select(range(len(train)))
            scores = trainer.score(rows)
            verdict = health(curve, scores, settings.beta, "held-out" if unseen else "training", looks.checks() if looks else ())
            if is_main():
                write_json(folder / "health.json", verdict)
            save_adapter(policy, folder, work.meta)
        progress.say(verdict["verdict"])

    def trial(settings: Dpo) -> None:
        with training(loaded, attach) as policy, TemporaryDirectory() as scratch:
            of_two_steps, rows = trial_of(settings, train)
            dpo_trainer(policy, rows, [], loaded, of_two_steps, Path(scratch), stage_seed).train()

    in_micro_batches(optimise, settings, folder, work.key, "DPO", progress, event, trial)
    remove_checkpoints(folder)
    return pairs.funnel


def check_start(trainer: "SoftDPOTrainer", settings: Dpo, dtype: torch.dtype) -> None:
    """On the first batch, the reward margin must be 0, and so the loss what it is there: ln 2, or ((2p - 1) / (2 tau))^2 for IPO.

    A reference that is the base instead of the SFT model, a lost adapter or a wrong template all show here.

    Raises:
        RuntimeError: They are not.
    """
    from rlaif_dpo.train.losses import preference_loss

    rows: Any = trainer.train_dataset
    scores = trainer.score(rows.select(range(min(len(rows), trainer.args.per_device_train_batch_size))))
    margin = torch.tensor([score.margin for score in scores])
    p = torch.tensor([score.p for score in scores])
    loss, expected = (
        preference_loss(settings.loss, delta, p, settings.beta, settings.label_noise).mean().item()
        for delta in (margin, torch.zeros_like(margin))
    )
    worst = settings.beta * margin.abs().max().item()
    if not (worst <= TOLERANCE[dtype] and abs(loss - expected) <= TOLERANCE[dtype] * max(1.0, expected)):
        raise RuntimeError(
            f"DPO does not start at its reference: at step 0 the reward margin is {worst:.4f} (should be 0) and the loss "
            f"{loss:.4f} (should be {expected:.4f})."
        )
