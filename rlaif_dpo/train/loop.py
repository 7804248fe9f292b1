"""What the trainers share around an optimiser: the adapter on its base, checkpoints and resume, the curve, the final adapter."""

import json
import math
import shutil
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from transformers import TrainerCallback

from rlaif_dpo.errors import UserError
from rlaif_dpo.files import JsonlWriter, Row, read_jsonl, write_json, write_jsonl, write_text
from rlaif_dpo.models.adapters import adapter_names, drop_adapter
from rlaif_dpo.models.load import LoadedModel
from rlaif_dpo.progress import Progress, Task
from rlaif_dpo.recipe.training import Optimisation
from rlaif_dpo.seeding import content_hash, derive_seed
from rlaif_dpo.train.processes import is_main, wait_for_all, world_size

META = "rlaif_dpo.json"
METRICS = "metrics.jsonl"
CHECKPOINTS = "checkpoints"
COMPLETE = "complete"
CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
HEAD = "base_model.model.score.weight"
SCHEDULES = {"linear": "linear", "cosine": "cosine", "constant": "constant_with_warmup"}
PACKAGES = ("torch", "transformers", "trl", "peft")
MEMORY_ONLY = {"micro_batch_size", "gradient_checkpointing", "save_steps"}
"""Settings that trade time for memory and leave the trained weights alone, but for the order of sums."""


@dataclass(frozen=True)
class Work:
    """A training to be done, or to be gone on with.

    Attributes:
        checkpoints: The folder for its checkpoints.
        meta: What `save_adapter` keeps beside the weights. Its `key`, a hash of all that decides them, tells it from other work.
    """

    checkpoints: Path
    meta: Row

    @property
    def key(self) -> str:
        return str(self.meta["key"])


def open_work(
    stage: str,
    folder: Path,
    rows: list[Row],
    settings: Optimisation,
    loaded: LoadedModel,
    seed: int,
    *others: object,
    starts: Sequence[Path] = (),
) -> Work | None:
    """The training of `stage` on `rows`; None where `folder/adapter` is what comes out of it already.

    Checkpoints and the curve of other work are removed.

    Args:
        stage: What is trained.
        folder: Of its files.
        rows: All that is learned from.
        settings: Of the stage.
        loaded: The base.
        seed: Of the run.
        others: What else decides the weights.
        starts: The adapters that it starts from.

    Raises:
        UserError: One of these is missing or of another chat template.
    """
    for adapter in starts:
        check_adapter(adapter, loaded)
    learned = settings.model_dump(exclude=MEMORY_ONLY)
    known = [stage, rows, learned, loaded.path, loaded.template_hash, str(loaded.dtype), seed, *map(str, others)]
    known += [read_meta(adapter).get("key") for adapter in starts]
    key = content_hash(json.dumps(known, ensure_ascii=False, sort_keys=True))
    if read_meta(folder / "adapter").get("key") == key:
        remove_checkpoints(folder)
        return None
    if is_main():
        _open_checkpoints(folder, key)
    wait_for_all()
    meta = {
        "stage": stage,
        "base": loaded.path,
        "template_hash": loaded.template_hash,
        "seed": seed,
        "rows": len(rows),
        "key": key,
    }
    return Work(folder / CHECKPOINTS, meta)


@dataclass(frozen=True)
class Tracking:
    """Where trl reports to beside our files, under which name: the recipe's `trackers` and the run."""

    trackers: tuple[str, ...] = ()
    run: str = "rlaif-dpo"


NO_TRACKING = Tracking()


@contextmanager
def training(loaded: LoadedModel, attach: Callable[[Any], PeftModel]) -> Iterator[PeftModel]:
    """`attach` an adapter to the bare base, to train it.

    Afterwards, also when it failed, `loaded.model` is the bare base as it was: no adapter, frozen, in eval mode, its own forward
    (trl puts a fused head before it), nothing of gradient checkpointing left.
    """
    for name in adapter_names(loaded):
        drop_adapter(loaded, name)
    base = loaded.model
    own_forward, generation = base.__dict__.get("forward"), deepcopy(base.generation_config)
    policy = attach(base)
    try:
        yield policy
    finally:
        loaded.model = policy.unload()
        base.__dict__.pop("forward", None)
        if own_forward is not None:
            base.forward = own_forward
        base.generation_config = generation
        base.disable_input_require_grads()
        with warnings.catch_warnings():
            # New names came during transformers 5; the old ones work in all of it.
            warnings.simplefilter("ignore", FutureWarning)
            if base.is_gradient_checkpointing:
                base.gradient_checkpointing_disable()
        base.eval().requires_grad_(False)


def check_adapter(path: Path, loaded: LoadedModel) -> None:
    """Before any work: is there an adapter in `path`, and was it trained with the chat template of `loaded`?

    Raises:
        UserError: It is missing or of another template.
    """
    if not (path / CONFIG).is_file():
        raise UserError(f"There is no adapter in {path} ({CONFIG}): run the stage that trains it.")
    trained_with = read_meta(path).get("template_hash", loaded.template_hash)
    if trained_with != loaded.template_hash:
        change = f"{trained_with}, now {loaded.template_hash}"
        raise UserError(f"The adapter in {path} was trained with another chat template ({change}): run SFT again.")


def continue_adapter(base: Any, path: Path, loaded: LoadedModel) -> PeftModel:
    """The adapter in `path` on the bare `base`, as `default`, to be trained further.

    Raises:
        UserError: It was made for another model.
    """
    try:
        return PeftModel.from_pretrained(base, str(path), is_trainable=True)
    except (ValueError, RuntimeError, OSError, SafetensorError) as error:
        raise UserError(f"The adapter in {path} does not fit {loaded.path}: {' '.join(str(error).split())[:300]}") from None


def trainer_seed(seed: int, stage: str) -> int:
    """31 bits, the most that numpy's seed takes with torch's."""
    return derive_seed(seed, stage) % 2**31


def remove_checkpoints(folder: Path) -> None:
    """Free the disk once the final adapter is there."""
    if is_main():
        shutil.rmtree(folder / CHECKPOINTS, ignore_errors=True)


def last_checkpoint(checkpoints: Path) -> Path | None:
    """The newest checkpoint that was written to its end."""
    complete = [path.parent for path in checkpoints.glob(f"checkpoint-*/{COMPLETE}")]
    return max(complete, key=_step, default=None)


def checkpointed(folder: Path) -> int:
    """The step of the last complete checkpoint of the work in `folder`; 0 without one."""
    found = last_checkpoint(folder / CHECKPOINTS)
    return _step(found) if found else 0


def fit(trainer: Any, folder: Path, steps: int, rows: int, epochs: int, progress: Progress, name: str) -> list[Row]:
    """Train to the end, from the last complete checkpoint if there is one; returns the training curve (to the main process).

    A stop at any instant (Ctrl-C, a kill) keeps the last complete checkpoint; the curve is cut back to it on resume, so that no
    step is in it twice.

    Args:
        trainer: A transformers `Trainer` that checkpoints into `folder/checkpoints`.
        folder: Where `metrics.jsonl` is written, a row per optimiser step.
        steps: Optimiser steps of an epoch.
        rows: Rows of an epoch.
        epochs: Passes.
        progress: Told of finished rows and of their tokens.
        name: Of the bar.
    """
    found, done = last_checkpoint(folder / CHECKPOINTS), checkpointed(folder)
    resume = str(found) if found else None
    trainer.add_callback(Complete())
    if not is_main():
        trainer.train(resume_from_checkpoint=resume)
        return []
    metrics = folder / METRICS
    write_jsonl(metrics, [row for row in read_jsonl(metrics) if row["step"] <= done])
    if 0 < done < steps * epochs:
        progress.say(f"{name} resumes after step {done} of {steps * epochs}.")
    batch = trainer.args.per_device_train_batch_size * trainer.args.gradient_accumulation_steps * world_size()
    seen = done // steps * rows + done % steps * batch
    with JsonlWriter(metrics) as writer, progress.task(name, rows * epochs, seen) as task:
        trainer.add_callback(Curve(writer, task, steps, rows, batch))
        trainer.train(resume_from_checkpoint=resume)
    return list(read_jsonl(metrics))


class Curve(TrainerCallback):
    """Writes a row per optimiser step, and advances the bar."""

    def __init__(self, writer: JsonlWriter, task: Task, steps: int, rows: int, batch: int) -> None:
        self._writer, self._task = writer, task
        self._steps, self._rows, self._batch = steps, rows, batch
        self._tokens = 0

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **kwargs: Any) -> None:
        if logs is None or "loss" not in logs:
            return
        values = {name: value if math.isfinite(value) else None for name, value in logs.items()}
        total = int(logs["num_tokens"])
        tokens, self._tokens = total - self._tokens, total
        del values["num_tokens"]
        self._writer.write({"step": state.global_step, "lr": values.pop("learning_rate"), "tokens": tokens, **values})
        last = state.global_step % self._steps == 0
        self._task.advance(self._rows - (self._steps - 1) * self._batch if last else self._batch, tokens)


class Complete(TrainerCallback):
    """Marks each checkpoint once every process has written its part."""

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        wait_for_all()
        if is_main():
            (Path(args.output_dir) / f"checkpoint-{state.global_step}" / COMPLETE).touch()


def save_adapter(policy: PeftModel, folder: Path, meta: Row, head: torch.Tensor | None = None) -> None:
    """Write the adapter `default` as `folder/adapter` at once (save beside it, then rename), with `meta` beside its weights.

    The (1, d) weights of a scalar `head` go into the same file, under the name by which transformers' sequence classifiers call
    theirs: an adapter and its head cannot be parted, and peft puts both on such a classifier.
    """
    if not is_main():
        return
    final, draft = folder / "adapter", folder / ".adapter.tmp"
    shutil.rmtree(draft, ignore_errors=True)
    policy.save_pretrained(str(draft), selected_adapters=["default"], save_embedding_layers=False)
    (draft / "README.md").unlink(missing_ok=True)
    if head is not None:
        weights = load_file(draft / WEIGHTS)
        save_file(weights | {HEAD: head.detach().cpu()}, draft / WEIGHTS, metadata={"format": "pt"})
        config = json.loads((draft / CONFIG).read_text(encoding="utf-8"))
        write_json(draft / CONFIG, config | {"task_type": None})
    write_json(draft / META, meta | {"versions": {name: version(name) for name in PACKAGES}})
    shutil.rmtree(final, ignore_errors=True)
    draft.rename(final)


def read_head(adapter: Path) -> torch.Tensor:
    """The (1, d) weights of the head that `save_adapter` wrote.

    Raises:
        UserError: The adapter has none: it is no reward model.
    """
    with safe_open(adapter / WEIGHTS, framework="pt") as file:
        if HEAD not in file.keys():  # noqa: SIM118 (the file is no mapping)
            raise UserError(f"The adapter in {adapter} has no reward head: name the adapter of a reward stage.")
        head: torch.Tensor = file.get_tensor(HEAD)
        return head


def read_meta(adapter: Path) -> Row:
    """What `save_adapter` wrote of how the adapter was made; empty for an adapter of others."""
    path = adapter / META
    return dict(json.loads(path.read_text(encoding="utf-8"))) if path.exists() else {}


def _open_checkpoints(folder: Path, key: str) -> None:
    checkpoints = folder / CHECKPOINTS
    label = checkpoints / "key.txt"
    if not label.exists() or label.read_text() != key:
        shutil.rmtree(checkpoints, ignore_errors=True)
        (folder / METRICS).unlink(missing_ok=True)
        write_text(label, key)


def _step(checkpoint: Path) -> int:
    return int(checkpoint.name.rpartition("-")[2])
