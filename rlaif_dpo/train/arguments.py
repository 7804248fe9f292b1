"""The arguments that all of trl's trainers get, and what is put right before they train and when they are made."""

import math
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from datasets import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars
from transformers import PrinterCallback
from transformers.integrations.integration_utils import TensorBoardCallback

from rlaif_dpo.models.load import LoadedModel
from rlaif_dpo.recipe.training import Optimisation, Training
from rlaif_dpo.train.loop import SCHEDULES, Tracking
from rlaif_dpo.train.processes import world_size


def steps_per_epoch(settings: Training, rows: int) -> int:
    """Optimiser steps in a pass over `rows`."""
    return math.ceil(rows / settings.batch_size)


def shared_arguments(
    settings: Optimisation, steps: int, loaded: LoadedModel, folder: Path, seed: int, tracking: Tracking, stage: str
) -> dict[str, Any]:
    """The training arguments that all trainers share, for `steps` optimiser steps."""
    micro = settings.rows_at_once
    on_gpu = loaded.device.type == "cuda"
    return {
        "output_dir": str(folder),
        "per_device_train_batch_size": micro,
        "per_device_eval_batch_size": micro,
        "gradient_accumulation_steps": settings.batch_size // (micro * world_size()),
        "ddp_find_unused_parameters": False,
        "learning_rate": settings.lr,
        "lr_scheduler_type": SCHEDULES[settings.schedule],
        "warmup_steps": math.ceil(settings.warmup * steps),
        "gradient_checkpointing": settings.gradient_checkpointing,
        "use_cpu": loaded.device.type == "cpu",
        "bf16": loaded.dtype == torch.bfloat16,
        "fp16": loaded.dtype == torch.float16 and on_gpu,
        "dataloader_pin_memory": on_gpu,
        "seed": seed,
        "data_seed": seed,
        "save_strategy": "steps",
        "save_steps": settings.save_steps,
        "save_total_limit": 2,
        "logging_strategy": "steps",
        "logging_steps": 1,
        "logging_nan_inf_filter": False,
        "eval_strategy": "no",
        "disable_tqdm": True,
        "report_to": list(tracking.trackers) or "none",
        "run_name": f"{tracking.run}-{stage}",
        "project": "rlaif-dpo",
    }


def one_gpu(config: Any) -> None:
    """trl refuses `nn.DataParallel`, which transformers takes as soon as it sees two GPUs."""
    config._n_gpu = min(config.n_gpu, 1)


def finish(trainer: Any) -> None:
    """Before the optimiser is built: trl's bfloat16 adapter weights become float32, in which small updates do not vanish."""
    trainer.remove_callback(PrinterCallback)
    for callback in trainer.callback_handler.callbacks:
        if isinstance(callback, TensorBoardCallback) and callback.logging_dir is None:
            # Its default is in the folder of the checkpoints, which is removed at the end.
            callback.logging_dir = str(Path(trainer.args.output_dir).parent / "tensorboard")
    trainable = [parameter for parameter in trainer.model.parameters() if parameter.requires_grad]
    if not trainable:
        raise RuntimeError("The adapter has no trainable weights.")
    for parameter in trainable:
        parameter.data = parameter.data.float()


@contextmanager
def quiet() -> Iterator[None]:
    """No progress bars of datasets and trl, whose work ours reports, and no warnings of names that change in transformers 6."""
    bars, before = not are_progress_bars_disabled(), os.environ.get("TQDM_DISABLE")
    disable_progress_bars()
    os.environ["TQDM_DISABLE"] = "1"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            yield
    finally:
        if bars:
            enable_progress_bars()
        if before is None:
            del os.environ["TQDM_DISABLE"]
        else:
            os.environ["TQDM_DISABLE"] = before
