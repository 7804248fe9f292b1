"""Every preference loss on the same labels: `python benchmarks/losses.py runs/quickstart`.

Copies a finished run once per loss, so that drafts, SFT adapter, candidates and judgments are shared, redoes DPO and the
evaluation, and prints what ground truth says. All other settings stay, so a loss that wants another rate is not flattered.
"""

import argparse
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

from rlaif_dpo import load_recipe, run

LOSSES = ("soft", "hard", "gdpo", "rdpo", "ipo")
COLUMNS = ("adherence", "knowledge", "dangerous_complied", "benign_refused")


def cell(leaf: Mapping[str, float | None]) -> str:
    """A share with its interval; a dash where no prompt asked for it."""
    return f"{leaf['value']:.3f} ({leaf['low']:.2f} to {leaf['high']:.2f})" if leaf["n"] else "–"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("--losses", nargs="+", default=LOSSES, choices=LOSSES)
    args = parser.parse_args()
    print("| loss | " + " | ".join(name.replace("_", " ") for name in COLUMNS) + " |")
    print("|---|" + "---|" * len(COLUMNS))
    for loss in args.losses:
        with tempfile.TemporaryDirectory() as folder:
            recipe = load_recipe(args.run / "recipe.yaml", [f"dpo.loss={loss}"])
            shutil.copytree(args.run, Path(folder) / recipe.name)
            truth = run(recipe, root=folder).report()["truth"]["dpo"]
        print(f"| {loss} | " + " | ".join(cell(truth[name]) for name in COLUMNS) + " |", flush=True)


if __name__ == "__main__":
    main()
