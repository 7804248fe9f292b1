"""Phase 1's last step: a LoRA adapter fine-tuned on the revisions (section 3.1 of Bai et al. 2022, arXiv 2212.08073)."""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model

from rlaif_dpo.errors import UserError
from rlaif_dpo.files import read_jsonl, write_json
from rlaif_dpo.models.load import LoadedModel
from rlaif_dpo.models.shapes import adapted, shapes_of
from rlaif_dpo.progress import Progress
from rlaif_dpo.recipe.training import Lora, Sft
from rlaif_dpo.train.data import require_examples, take_census
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
from rlaif_dpo.train.recovery import with_recovery


def run_sft(
    rows_path: Path,
    loaded: LoadedModel,
    lora: Lora,
    settings: Sft,
    folder: Path,
    seed: int,
    progress: Progress,
    tracking: Tracking = NO_TRACKING,
    event: Event = nobody,
    start: Path | None = None,
) -> dict[str, int]:
    """Train a new adapter on rows of `id`, `prompt` and `completion` (message lists); the loss is over completions only.

    With `start`, the adapter saved there is trained further, at its own rank.

    Writes `folder/census.json` before the first step, `metrics.jsonl` (a row per step) while it trains, `adapter/` at the end.
    A stopped run resumes from its last checkpoint; a finished one returns at once. `loaded.model` is the bare base afterwards.

    Returns:
        The funnel: rows in, dropped by reason, kept, and of these those made to recover.

    Raises:
        UserError: No row can be trained on or made to recover, the adapter's target modules are not in the model, `start` does
            not fit it, or the memory does not suffice.
    """
    census = take_census(read_jsonl(rows_path), ("completion",), loaded, settings.max_length)
    if is_main():
        write_json(folder / "census.json", census.summary())
    require_examples(census, rows_path.name)
    examples, recovering = with_recovery(census.examples, settings.recovery, loaded, census.max_length, seed)
    funnel = census.funnel | ({"recovery": recovering} if recovering else {})
    starts = [start] if start is not None else []
    work = open_work("sft", folder, [e.row for e in census.examples], settings, loaded, seed, lora, starts=starts)
    if work is None:
        return funnel

    from rlaif_dpo.train.arguments import steps_per_epoch
    from rlaif_dpo.train.trl_adapter import sft_trainer

    stage_seed = trainer_seed(seed, "sft")

    def attach(base: Any) -> PeftModel:
        return new_adapter(base, lora, stage_seed) if start is None else continue_adapter(base, start, loaded)

    def train(settings: Sft) -> None:
        with training(loaded, attach) as policy:
            trainer = sft_trainer(policy, examples, loaded, settings, work.checkpoints, stage_seed, tracking)
            rows = len(examples)
            fit(trainer, folder, steps_per_epoch(settings, rows), rows, settings.epochs, progress, "SFT")
            save_adapter(policy, folder, work.meta)

    def trial(settings: Sft) -> None:
        with training(loaded, attach) as policy, TemporaryDirectory() as scratch:
            of_two_steps, rows = trial_of(settings, examples)
            sft_trainer(policy, rows, loaded, of_two_steps, Path(scratch), stage_seed).train()

    in_micro_batches(train, settings, folder, work.key, "SFT", progress, event, trial)
    remove_checkpoints(folder)
    return funnel


def new_adapter(base: Any, lora: Lora, seed: int) -> PeftModel:
    """A LoRA adapter on `base`, its initial weights drawn from `seed`.

    Raises:
        UserError: A target is no linear layer of the model.
    """
    shapes = shapes_of(base.config)
    if shapes is not None and not shapes.tower:
        adapted(shapes, lora)  # of a model that is known here it can say which layers there are
    targets = lora.target_modules if isinstance(lora.target_modules, str) else list(lora.target_modules)
    config = LoraConfig(r=lora.r, lora_alpha=lora.alpha, lora_dropout=lora.dropout, target_modules=targets, task_type="CAUSAL_LM")
    torch.manual_seed(seed)
    try:
        return get_peft_model(base, config)
    except ValueError as error:
        raise UserError(f"lora.target_modules does not fit this model: {' '.join(str(error).split())[:300]}") from None
