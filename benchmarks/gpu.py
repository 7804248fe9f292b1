"""Memory and speed on a GPU against `plan` and stock TRL: `python benchmarks/gpu.py`.

Public models' configs with random weights, made in place and quantised to NF4, trained for a few steps on random tokens. Each
measurement is a process of its own, held to so many GiB; where that is too little, to the next more. Prints a table and keeps it
in benchmarks/results with date, card and versions. `--toy --device cpu` does the same with models of two layers, in this process.
"""

import argparse
import json
import random
import resource
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

import torch
from peft import PeftModel

from rlaif_dpo.models.chat import stop_ids
from rlaif_dpo.models.known import CONFIGS
from rlaif_dpo.models.load import LoadedModel, load_tokenizer
from rlaif_dpo.models.memory import GIB, Placed, training_memory
from rlaif_dpo.models.memory_roles import reward_memory
from rlaif_dpo.models.shapes import shapes_of
from rlaif_dpo.pipeline.directory import package_versions
from rlaif_dpo.recipe.schema import Model
from rlaif_dpo.recipe.training import Dpo, Lora, Reward, Sft, Training
from rlaif_dpo.train.data import Example
from rlaif_dpo.train.loop import NO_TRACKING, continue_adapter, training
from rlaif_dpo.train.sft import new_adapter

RESULTS = Path(__file__).parent / "results"
MODELS = {
    "1.5b": "Qwen/Qwen2.5-1.5B-Instruct",
    "4b": "Qwen/Qwen3-4B",
    "7b": "Qwen/Qwen2.5-7B-Instruct",
    "8b": "meta-llama/Llama-3.1-8B-Instruct",
}
TOY = {
    "vocab_size": 512, "hidden_size": 64, "intermediate_size": 160, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 16,
}  # fmt: skip
METHODS = ("sft", "dpo", "stock-dpo", "reward")
STEPS, WARM = 8, 3
"""Optimiser steps, and how many of the first are not timed."""
PROMPT = 0.25
"""Share of a row that is its prompt."""


def random_model(name: str, toy: bool, device: torch.device, dtype: torch.dtype) -> LoadedModel:
    """A model of a public config with random weights: linear layers but the output layer in NF4, one by one."""
    from accelerate import init_empty_weights
    from bitsandbytes.nn import Linear4bit, Params4bit
    from transformers import AutoConfig, AutoModelForCausalLM

    fields = CONFIGS[MODELS[name]] | (TOY if toy else {})
    config = AutoConfig.for_model(**fields)
    with init_empty_weights(include_buffers=False):
        model = AutoModelForCausalLM.from_config(config, dtype=dtype)
    torch.manual_seed(0)

    def drawn(shape: torch.Size) -> torch.Tensor:
        return torch.empty(shape, dtype=dtype, device=device).normal_(std=0.02)

    for path, layer in list(model.named_modules()):
        if isinstance(layer, torch.nn.Linear) and layer is not model.get_output_embeddings():
            small = Linear4bit(
                layer.in_features,
                layer.out_features,
                layer.bias is not None,
                compute_dtype=dtype,
                quant_type="nf4",
                device="meta",
            )
            weight = Params4bit(drawn(layer.weight.shape), requires_grad=False, quant_type="nf4", compress_statistics=True)
            small.weight = weight.to(device)
            model.set_submodule(path, small)
    for path, parameter in list(model.named_parameters()):
        if parameter.device.type == "meta":
            owner, _, leaf = path.rpartition(".")
            value = torch.ones(parameter.shape, dtype=dtype, device=device) if "norm" in owner else drawn(parameter.shape)
            setattr(model.get_submodule(owner), leaf, torch.nn.Parameter(value, requires_grad=False))
    model.tie_weights()
    model.is_loaded_in_4bit = True
    model.to(device).eval().requires_grad_(False)
    tokenizer, _, _ = load_tokenizer(Model())
    context = config.max_position_embeddings
    return LoadedModel(model, tokenizer, name, device, dtype, "random", context, name)


def examples(count: int, length: int, answers: int, loaded: LoadedModel) -> list[Example]:
    """Rows of exactly `length` tokens, drawn at random; every answer ends."""
    rng, prompt = random.Random(0), int(PROMPT * length)
    stops = stop_ids(loaded.tokenizer, loaded.model.generation_config.eos_token_id)
    words = [id for id in range(min(512, len(loaded.tokenizer))) if id not in stops]

    def row(n: int) -> Example:
        endings = tuple([*rng.choices(words, k=length - prompt - 1), loaded.tokenizer.eos_token_id] for _ in range(answers))
        return Example({"id": str(n), "p": 0.7}, rng.choices(words, k=prompt), endings)

    return [row(n) for n in range(count)]


class Clock:
    """The seconds of each step, and memory at its peak."""

    def __init__(self, device: torch.device) -> None:
        self._cuda = device.type == "cuda"
        self.seconds: list[float] = []
        self._last = 0.0

    def start(self) -> None:
        if self._cuda:
            torch.cuda.synchronize()
        self._last = time.perf_counter()

    def step(self) -> None:
        before = self._last
        self.start()
        self.seconds.append(self._last - before)

    def peak(self) -> int:
        """Bytes that the process reserved on the card with what CUDA itself takes, or its largest size in RAM."""
        if not self._cuda:
            return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        free, total = torch.cuda.mem_get_info()
        outside = total - free - torch.cuda.memory_reserved()
        return torch.cuda.max_memory_reserved() + outside


def timed(trainer: Any, clock: Clock) -> None:
    from transformers import PrinterCallback, TrainerCallback

    class Timer(TrainerCallback):
        def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
            clock.start()

        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            clock.step()

    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(Timer())
    trainer.train()


@contextmanager
def from_sft(loaded: LoadedModel, lora: Lora, folder: Path) -> Iterator[PeftModel]:
    """An adapter that was saved and is trained on, as DPO's and the reward model's is."""
    with training(loaded, lambda base: new_adapter(base, lora, 0)) as policy:
        policy.save_pretrained(folder / "sft")
    with training(loaded, lambda base: continue_adapter(base, folder / "sft", loaded)) as policy:
        yield policy


def sft(loaded: LoadedModel, lora: Lora, settings: Any, length: int, folder: Path, clock: Clock) -> None:
    from rlaif_dpo.train.trl_adapter import sft_trainer

    rows = examples(STEPS * settings.batch_size, length, 1, loaded)
    with training(loaded, lambda base: new_adapter(base, lora, 0)) as policy:
        timed(sft_trainer(policy, rows, loaded, settings, folder, 0), clock)


def dpo(loaded: LoadedModel, lora: Lora, settings: Any, length: int, folder: Path, clock: Clock) -> None:
    from rlaif_dpo.train.trl_adapter import dpo_trainer

    with from_sft(loaded, lora, folder) as policy:
        rows = examples(STEPS * settings.batch_size, length, 2, loaded)
        timed(dpo_trainer(policy, rows, [], loaded, settings, folder, 0), clock)


def stock_dpo(loaded: LoadedModel, lora: Lora, settings: Any, length: int, folder: Path, clock: Clock) -> None:
    """trl's own trainer on the same tokens with the same arguments."""
    from trl.trainer.dpo_config import DPOConfig
    from trl.trainer.dpo_trainer import DataCollatorForPreference, DPOTrainer

    from rlaif_dpo.train.arguments import shared_arguments, steps_per_epoch
    from rlaif_dpo.train.trl_adapter import OURS, _pairs

    class Tokenised(DPOTrainer):
        def _prepare_dataset(self, dataset: Any, *args: Any, **kwargs: Any) -> Any:
            return dataset

    rows = examples(STEPS * settings.batch_size, length, 2, loaded)
    steps = steps_per_epoch(settings, len(rows)) * settings.epochs
    arguments = shared_arguments(settings, steps, loaded, folder, 0, NO_TRACKING, "dpo")
    config = DPOConfig(beta=settings.beta, max_length=None, precompute_ref_log_probs=True, **arguments)
    with from_sft(loaded, lora, folder) as policy:
        trainer = Tokenised(
            model=policy,
            args=config,
            train_dataset=_pairs(rows).remove_columns(list(OURS)),
            processing_class=loaded.tokenizer,
            data_collator=DataCollatorForPreference(pad_token_id=loaded.tokenizer.pad_token_id),
        )
        timed(trainer, clock)


def reward(loaded: LoadedModel, lora: Lora, settings: Any, length: int, folder: Path, clock: Clock) -> None:
    from rlaif_dpo.train.optimise import Optimiser, without_dropout
    from rlaif_dpo.train.reward import _step
    from rlaif_dpo.train.roles import adapter_parameters, new_head

    rows = examples(settings.batch_size, length, 2, loaded)
    with from_sft(loaded, lora, folder) as policy:
        loaded.model = policy
        head = new_head(loaded, 0)
        parameters = [*adapter_parameters(loaded, "default"), *head.parameters()]
        optimiser = Optimiser({"reward": (parameters, settings.lr)}, settings, STEPS, loaded)
        with without_dropout(policy, settings.gradient_checkpointing):
            for _ in range(STEPS):
                clock.start()
                _step(rows, loaded, head, optimiser, settings)
                clock.step()


WORK: dict[str, tuple[Callable[..., None], type[Training], int]] = {
    "sft": (sft, Sft, 1),
    "dpo": (dpo, Dpo, 2),
    "stock-dpo": (stock_dpo, Dpo, 2),
    "reward": (reward, Reward, 2),
}


def measure(name: str, method: str, length: int, gib: float | None, toy: bool, device: torch.device) -> dict[str, Any]:
    """One row of the table: a batch of 4 rows, one at a time, layers recomputed."""
    cuda = device.type == "cuda"
    capable = cuda and torch.cuda.get_device_capability(device) >= (8, 0)
    dtype = torch.bfloat16 if capable else torch.float16 if cuda else torch.float32
    if cuda and gib is not None:
        torch.cuda.set_per_process_memory_fraction(min(1.0, gib * GIB / torch.cuda.mem_get_info(device)[1]), device)
    work, section, answers = WORK[method]
    settings = section(batch_size=4, micro_batch_size=1, max_length=length, gradient_checkpointing=True, save_steps=10**6)
    lora, clock = Lora(), Clock(device)
    loaded = random_model(name, toy, device, dtype)
    with tempfile.TemporaryDirectory() as folder:
        work(loaded, lora, settings, length, Path(folder), clock)
    shapes = shapes_of(loaded.model.config)
    assert shapes is not None
    placed = Placed(shapes, str(dtype).removeprefix("torch."), nf4=True, cuda=cuda)  # type: ignore[arg-type]
    if isinstance(settings, Reward):
        plan = reward_memory(method, placed, lora, settings, length).total
    else:
        plan = training_memory(method, placed, lora, settings, length, answers, int(PROMPT * length)).total
    seconds = median(clock.seconds[WARM:])
    return {
        "model": name,
        "method": method,
        "length": length,
        "held to GiB": gib,
        "peak GiB": clock.peak() / GIB,
        "plan GiB": plan / GIB,
        "plan / peak": plan / clock.peak(),
        "s / step": seconds,
        "tokens / s": round(settings.batch_size * answers * length / seconds),
    }


def in_own_process(name: str, method: str, length: int, gib: float, device: str) -> dict[str, Any] | None:
    """`measure` in a process held to `gib`; None where it runs out of memory."""
    words = [sys.executable, __file__, "--one", "--models", name, "--methods", method, "--lengths", str(length)]
    done = subprocess.run([*words, "--memory", str(gib), "--device", device], capture_output=True, text=True)
    if done.returncode == 0:
        row: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return row
    if "out of memory" in done.stderr.lower() or "can't allocate memory" in done.stderr:
        return None
    raise SystemExit(f"{name} {method} {length}: {done.stderr[-2000:]}")


def shown(value: object) -> str:
    return "–" if value is None else f"{value:.3g}" if isinstance(value, float) else str(value)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=list(MODELS))
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=METHODS)
    parser.add_argument("--lengths", nargs="+", type=int, default=[512, 1024, 2048])
    parser.add_argument("--memory", nargs="+", type=float, default=[12, 16, 24], help="GiB that a process is held to")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--toy", action="store_true", help="models of two layers, in this process, nothing kept")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    device = torch.device(args.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise SystemExit("There is no GPU here: --toy --device cpu shows that the script works.")
    if args.one:
        print(json.dumps(measure(args.models[0], args.methods[0], args.lengths[0], args.memory[0], False, device)))
        return
    lines: list[str] = []

    def say(line: str) -> None:
        lines.append(line)
        print(line, flush=True)

    columns = ("model", "method", "length", "held to GiB", "peak GiB", "plan GiB", "plan / peak", "s / step", "tokens / s")
    card = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    now = datetime.now(UTC)
    say(f"{card}, {now:%Y-%m-%d}, " + ", ".join(f"{name} {version}" for name, version in package_versions().items()) + "\n")
    say("| " + " | ".join(columns) + " |\n|" + "---|" * len(columns))
    for name in args.models:
        for length in args.lengths:
            for method in args.methods:
                if args.toy:
                    row: dict[str, Any] | None = measure(name, method, length, None, True, device)
                else:
                    tries = (in_own_process(name, method, length, gib, args.device) for gib in sorted(args.memory))
                    row = next((found for found in tries if found is not None), None)
                row = row or {"model": name, "method": method, "length": length, "peak GiB": "out of memory"}
                say("| " + " | ".join(shown(row.get(column)) for column in columns) + " |")
    if not args.toy:
        RESULTS.mkdir(exist_ok=True)
        slug = card.lower().replace(" ", "-")
        (RESULTS / f"{now:%Y-%m-%d}-{slug}.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
