"""Peak memory of PPO's four roles on one base, of DPO, and of four separate models: `python benchmarks/ppo_memory.py`.

The same model, adapters, rows at once and length for all, each in a process of its own; two optimiser steps or two updates, so
that the optimiser has its moments. A row of DPO is two answers, one of PPO is one: PPO is measured with as many rows at once, and
with as many answers. Four separate models are PPO with three more copies of the base beside it. "Beyond the start" leaves out
what the process had before the model. Models but the sandbox's are public configs with random weights, made in place: in float32
on a CPU, in NF4 on a GPU (`--device cuda --models 8b --length 1024`).
"""

import argparse
import json
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path

import torch
from gpu import MODELS, Clock, examples, from_sft, random_model
from transformers import AutoConfig, AutoModelForCausalLM

from rlaif_dpo.messages import user
from rlaif_dpo.models.chat import render
from rlaif_dpo.models.known import CONFIGS
from rlaif_dpo.models.load import LoadedModel, load_model, load_tokenizer
from rlaif_dpo.progress import Silent
from rlaif_dpo.prompts.rows import PromptRow
from rlaif_dpo.recipe.schema import Model
from rlaif_dpo.recipe.training import Dpo, Lora, Ppo
from rlaif_dpo.train.loop import save_adapter
from rlaif_dpo.train.ppo import run_ppo
from rlaif_dpo.train.reward import Answered, RewardModel
from rlaif_dpo.train.roles import new_head
from rlaif_dpo.train.trl_adapter import dpo_trainer

CPU = {"135m": "HuggingFaceTB/SmolLM2-135M-Instruct"}
MIB = 2**20
METHODS = {"DPO": 2, "PPO": 1, "PPO, as many answers": 2, "PPO, four models": 1}
"""Answers at once, to each row at once."""
HEADER = ("model", "what", "answers at once", "peak", "of DPO's", "beyond the start", "of DPO's")


def base(name: str, device: torch.device) -> LoadedModel:
    if name == "sandbox":
        return load_model(Model())
    if name in MODELS:
        return random_model(name, False, device, torch.bfloat16)
    config = AutoConfig.for_model(**CONFIGS[CPU[name]])
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).to(device).eval().requires_grad_(False)
    tokenizer, _, _ = load_tokenizer(Model())
    return LoadedModel(model, tokenizer, name, device, torch.float32, "random", config.max_position_embeddings, name)


def dpo(loaded: LoadedModel, rows: int, length: int, recompute: bool, folder: Path) -> None:
    settings = Dpo(batch_size=rows, max_length=length, gradient_checkpointing=recompute, save_steps=10**6)
    with from_sft(loaded, Lora(), folder) as policy:
        dpo_trainer(policy, examples(2 * rows, length, 2, loaded), [], loaded, settings, folder, 0).train()


def ppo(loaded: LoadedModel, rows: int, length: int, recompute: bool, folder: Path) -> None:
    """Answers of random weights have no end: each is as long as it may be."""
    with from_sft(loaded, Lora(), folder) as policy:
        save_adapter(policy, folder / "reward", {}, new_head(loaded, 0).weight)
    room = length - length // 4
    settings = Ppo(
        updates=2, batch_size=rows, minibatch_size=rows, epochs=1, warmup=0.0, max_length=length, max_new_tokens=room,
        baseline_samples=max(2, rows), gradient_checkpointing=recompute, tripwires="warn", save_steps=10**6,
    )  # fmt: skip
    model, filler = RewardModel(loaded, folder / "reward" / "adapter"), words(loaded, room - 8)

    def reward(answers: Sequence[Answered]) -> list[float]:
        # The words are not those that were sampled, of which the tokenizer knows only a few; there are as many.
        return model([(messages, filler) for messages, _ in answers])

    prompts = [PromptRow(str(n), (user(words(loaded, length // 4 - 16)),)) for n in range(rows)]
    run_ppo(
        prompts, loaded, folder / "sft", reward, settings, folder / "ppo", 0, Silent(), reward_name="random",
        value_from=folder / "reward" / "adapter",
    )  # fmt: skip


def words(loaded: LoadedModel, tokens: int) -> str:
    """A text of about so many tokens."""
    bare = len(render(loaded.tokenizer, [user("")]))
    each = len(render(loaded.tokenizer, [user("help " * 100)])) - bare
    return "help " * max(1, 100 * tokens // each)


def measure(name: str, method: str, rows: int, length: int, recompute: bool, device: torch.device) -> dict[str, float]:
    """The peak in MiB, and what there was before the model."""
    clock = Clock(device)
    before = clock.peak() / MIB
    loaded = base(name, device)
    copies = [base(name, device) for _ in range(3)] if method == "PPO, four models" else []
    with tempfile.TemporaryDirectory() as folder:
        if method == "DPO":
            dpo(loaded, rows, length, recompute, Path(folder))
        else:
            ppo(loaded, METHODS[method] * rows, length, recompute, Path(folder))
    assert len(copies) in (0, 3)
    return {"peak": clock.peak() / MIB, "before": before}


def in_own_process(*words: object) -> dict[str, float]:
    done = subprocess.run([sys.executable, __file__, *map(str, words)], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr[-2000:])
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="+", default=["sandbox", "135m"], choices=["sandbox", *CPU, *MODELS])
    parser.add_argument("--methods", nargs="+", default=list(METHODS)[1:], choices=list(METHODS)[1:], help="beside DPO")
    parser.add_argument("--length", type=int, default=256, help="tokens of prompt and answer")
    parser.add_argument("--rows", type=int, default=2, help="rows at once")
    parser.add_argument("--recompute", action="store_true", help="layers are recomputed (gradient_checkpointing)")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--one", metavar="METHOD", help=argparse.SUPPRESS)
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    device = torch.device(args.device)
    if args.one:
        print(json.dumps(measure(args.models[0], args.one, args.rows, args.length, args.recompute, device)))
        return
    print(f"MiB; {args.rows} rows at once of {args.length} tokens{', layers recomputed' if args.recompute else ''}.\n")
    print(f"| {' | '.join(HEADER)} |\n|{'---|' * len(HEADER)}", flush=True)
    for name in args.models:
        first: dict[str, float] = {}
        for method in ("DPO", *args.methods):
            common = ("--models", name, "--length", args.length, "--rows", args.rows, "--device", args.device)
            found = in_own_process("--one", method, *common, *(["--recompute"] if args.recompute else []))
            own = found["peak"] - found["before"]
            first = first or found
            cells = (
                name, method, str(METHODS[method] * args.rows), f"{found['peak']:,.0f}", f"{found['peak'] / first['peak']:.2f}",
                f"{own:,.0f}", f"{own / (first['peak'] - first['before']):.2f}",
            )  # fmt: skip
            print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
