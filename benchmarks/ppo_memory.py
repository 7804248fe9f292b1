"""Peak memory of PPO's four roles on one base, of DPO, and of four separate models: `python benchmarks/ppo_memory.py`.

The same model, adapters, rows at once and length for all, each in a process of its own; two optimiser steps or two updates, so
that the optimiser has its moments. A row of DPO is two answers, one of PPO is one: PPO is measured with as many rows at once, and
with as many answers. Four separate models are PPO with three more copies of the base beside it. In brackets: what the process
took beyond what it had before the model. Models but the sandbox's are public configs with random weights, made in place: in
float32 on a CPU, in NF4 on a GPU (`--device cuda --models 8b --lengths 1024`).
"""

import argparse
import json
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

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

CPU = {"135m": "HuggingFaceTB/SmolLM2-135M-Instruct"}
MIB = 2**20
METHODS = {"dpo": 1, "ppo": 1, "ppo, as many answers": 2, "four models": 1}
"""Answers at once, to each row at once of DPO."""
HEADER = ("model", "length", "layers recomputed", "DPO", "PPO", "of DPO", "as many answers", "of DPO", "four models", "of DPO")


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
    from rlaif_dpo.train.trl_adapter import dpo_trainer

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
    copies = [base(name, device) for _ in range(3)] if method == "four models" else []
    with tempfile.TemporaryDirectory() as folder:
        (dpo if method == "dpo" else ppo)(loaded, METHODS[method] * rows, length, recompute, Path(folder))
    assert len(copies) in (0, 3)
    return {"peak": clock.peak() / MIB, "before": before}


def in_own_process(*words: object) -> dict[str, float]:
    done = subprocess.run([sys.executable, __file__, "--one", *map(str, words)], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr[-2000:])
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def row(name: str, length: int, recompute: bool, found: dict[str, dict[str, float]]) -> str:
    first = found["dpo"]

    def shown(of: dict[str, float]) -> str:
        return f"{of['peak']:,.0f} ({of['peak'] - of['before']:,.0f})"

    def ratio(of: dict[str, float]) -> str:
        own = (of["peak"] - of["before"]) / (first["peak"] - first["before"])
        return f"{of['peak'] / first['peak']:.2f} ({own:.2f})"

    others = [cell for method in list(METHODS)[1:] for cell in (shown(found[method]), ratio(found[method]))]
    return f"| {' | '.join((name, str(length), 'yes' if recompute else 'no', shown(first), *others))} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="+", default=["sandbox", "135m"], choices=["sandbox", *CPU, *MODELS])
    parser.add_argument("--lengths", nargs="+", type=int, default=[256])
    parser.add_argument("--rows", type=int, default=2, help="rows at once")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--one", nargs=2, metavar=("METHOD", "RECOMPUTE"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    device = torch.device(args.device)
    if args.one:
        method, recompute = args.one
        print(json.dumps(measure(args.models[0], method, args.rows, args.lengths[0], recompute == "True", device)))
        return
    print(f"MiB; rows at once: {args.rows}; in brackets without what there was before the model.\n")
    print(f"| {' | '.join(HEADER)} |\n|{'---|' * len(HEADER)}", flush=True)
    for name in args.models:
        for length in args.lengths:
            for recompute in (False, True):
                found: dict[str, Any] = {}
                for method in METHODS:
                    common = ("--models", name, "--lengths", length, "--rows", args.rows, "--device", args.device)
                    found[method] = in_own_process(method, recompute, *common)
                print(row(name, length, recompute, found), flush=True)


if __name__ == "__main__":
    main()
