"""Every optimizer on one base model and, where it wants labels, the same labels: `python benchmarks/optimizers.py`.

Makes the stages before the optimizer once, from the recipe `rl-cai-ppo`, then copies that run for each optimizer and goes on.
Self-Rewarding is the recipe of that name with two rounds; its SFT is its own, of as many prompts. Each trains in a process of its
own, whose peak memory is its. What is measured comes from ground truth on held-out prompts, with 95 % intervals; KL is from the
base, in nats an answer; seconds are those of auditing, labelling and training. An optimizer "improves" where its interval of
adherence is above that of the SFT model it began with.
"""

import argparse
import resource
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from rlaif_dpo import load_recipe, run
from rlaif_dpo.pipeline.probe import probe_drift
from rlaif_dpo.pipeline.runner import Run
from rlaif_dpo.recipe import Recipe

GRPO = [
    "grpo.updates=20",
    "grpo.batch_size=32",
    "grpo.group_size=4",
    "grpo.lr=3e-3",
    "grpo.kl_coef=0.3",
    "grpo.max_new_tokens=96",
]
SHARED, ROUNDS = "rl-cai-ppo", "self-rewarding"
OPTIMIZERS = {
    "DPO": (SHARED, ["optimizer=dpo"]),
    "reward model + PPO": (SHARED, ["optimizer=ppo"]),
    "GRPO, reward model": (SHARED, ["optimizer=grpo", *GRPO, "grpo.rewards.model=1", "grpo.rewards.judge=0"]),
    "GRPO, judge": (SHARED, ["optimizer=grpo", *GRPO, "grpo.rewards.model=0", "grpo.rewards.judge=1"]),
    "self-rewarding, 2 rounds": (ROUNDS, ["rounds=2"]),
}
HEADER = ("policy", "adherence", "improves", "knowledge", "KL", "seconds", "peak MiB")
COUNTED = ("25", "3", "4")


def recipe_of(seed: int, name: str) -> Recipe:
    recipe, overrides = OPTIMIZERS[name]
    return load_recipe(recipe, [f"seed={seed}", "name=run", *overrides])


def share(leaf: dict[str, float]) -> str:
    return f"{leaf['value']:.3f} ({leaf['low']:.3f} to {leaf['high']:.3f})"


def train(seed: int, folder: Path, name: str) -> int:
    """Peak memory in MiB of a process that labels and trains and does not evaluate the last policy."""
    call = [sys.executable, __file__, "--train", str(folder), "--seed", str(seed), "--only", name]
    done = subprocess.run(call, check=True, stdout=subprocess.PIPE, text=True)
    return int(done.stdout.split()[-1])


def measured(seed: int, folder: Path, name: str) -> list[dict[str, Any]]:
    """The evidence of the finished run in `folder`, or of each of its rounds, with KL from the base."""
    recipe = recipe_of(seed, name)
    kept = run(recipe, root=folder)
    if not recipe.iterates:
        return [evidence(kept)]
    return [evidence(Run(folder / "run" / f"round-{number}")) for number in range(1, recipe.rounds + 1)]


def evidence(done: Run) -> dict[str, Any]:
    return done.evidence() | {"kl": probe_drift(done.path, likelihoods=True)["likelihoods"]["kl"]}


def row(name: str, policy: str, found: list[dict[str, Any]], peak: int | None) -> str:
    first, last = found[0], found[-1]
    sft, mine = first["truth"]["sft"]["adherence"], last["truth"][policy]["adherence"]
    improves = "–" if policy in ("base", "sft") else "yes" if mine["low"] > sft["high"] else "no"
    spent = sum(took for one in found for stage, took in one["seconds_by_stage"].items() if stage.startswith(COUNTED))
    cells = (
        name, share(mine), improves, share(last["truth"][policy]["knowledge"]), f"{last['kl'][policy]:.1f}",
        f"{spent:.0f}" if peak else "–", str(peak or "–"),
    )  # fmt: skip
    return f"| {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("runs/optimizers"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="+", choices=OPTIMIZERS, default=list(OPTIMIZERS))
    parser.add_argument("--train", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.train:
        recipe = recipe_of(args.seed, args.only[0])
        run(recipe, root=args.train, until=f"round-{recipe.rounds}/{recipe.optimizer}" if recipe.iterates else recipe.optimizer)
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
        return
    shared = run(load_recipe(SHARED, [f"seed={args.seed}", "name=run"]), root=args.out / "shared", until="30-pairs").path
    print(f"| {' | '.join(HEADER)} |\n|{'---|' * len(HEADER)}", flush=True)
    for number, name in enumerate(args.only):
        folder = args.out / name.lower().replace(",", "").replace(" ", "-")
        if OPTIMIZERS[name][0] == SHARED and not folder.exists():
            shutil.copytree(shared, folder / "run")
        peak = train(args.seed, folder, name)
        found = measured(args.seed, folder, name)
        if number == 0:
            for policy in ("base", "sft"):
                print(row("SFT" if policy == "sft" else policy, policy, found, None))
        print(row(name, found[-1]["run"]["optimizer"], found, peak), flush=True)


if __name__ == "__main__":
    main()
