"""Memory and time of candidates, pairs and labels for many prompts: `python benchmarks/rows.py --candidates 100000 1000000`.

Runs the stage 30-pairs with an engine and a judge that cost nothing, so that what is measured is our own bookkeeping: each count
of candidates (four to a prompt, one pair of them) in a process of its own. Prints its peak memory, its time, that of the CPU
too, and the latter for each 1,000 candidates: flat memory and linear time show as equal numbers down a column.
"""

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from math import log
from pathlib import Path

from rlaif_dpo.constitution.schema import Constitution, Principle, derive
from rlaif_dpo.engines.base import OptionRequest, Request
from rlaif_dpo.engines.scripted import ScriptedEngine
from rlaif_dpo.files import write_jsonl
from rlaif_dpo.judges.pairwise import PairwiseJudge
from rlaif_dpo.messages import user
from rlaif_dpo.pairs.run import run_pairs
from rlaif_dpo.progress import Silent
from rlaif_dpo.prompts.rows import PromptRow
from rlaif_dpo.prompts.stored import StoredPrompts
from rlaif_dpo.recipe.schema import JudgeSettings, Pairs

PER_PROMPT = 4
CONSTITUTION = Constitution("desk", (Principle(id="kind", text="Be kind.", **derive("Be kind.")),), hash="c0ffee")


def reply(request: Request) -> str:
    """About sixty words that no other candidate has."""
    return " ".join(f"{request.seed % (n + 7)}th" for n in range(60))


def choose(request: OptionRequest) -> tuple[float, float]:
    return (log(0.7), log(0.3)) if request.id.endswith("ab/0") else (log(0.4), log(0.6))


class Forgetful(list[str]):
    """What the scripted engine would remember for tests."""

    def append(self, item: str) -> None:
        pass


def engine() -> ScriptedEngine:
    made = ScriptedEngine(reply, choose)
    made.generated, made.scored = Forgetful(), Forgetful()
    return made


def measure(candidates: int) -> None:
    """One count, in this process."""
    question = "How can I make my neighbour see that the hedge between our gardens, which has grown over the wall, is hers? "
    settings = Pairs(candidates=PER_PROMPT, per_prompt=1)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "prompts.jsonl"
        prompts = (PromptRow(f"p{n}", (user(f"{question} ({n})"),)) for n in range(candidates // PER_PROMPT))
        write_jsonl(path, ({"phase": "pairs"} | asdict(prompt) for prompt in prompts))
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        start, cpu = time.perf_counter(), time.process_time()
        summary = run_pairs(
            StoredPrompts(path, "pairs"), CONSTITUTION, settings, JudgeSettings(), engine(),
            PairwiseJudge(engine(), JudgeSettings()), Path(folder), 0, Silent(),
        )  # fmt: skip
        seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(
        f"{candidates:10,} candidates {summary.funnel['kept']:10,} preferences {peak:8,.0f} MB (before: {before:,.0f}) "
        f"{seconds:8.1f} s {cpu:8.1f} s of CPU, {1000 * 1000 * cpu / candidates:6.1f} ms for 1,000",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--candidates", type=int, nargs="+", default=[100_000, 1_000_000])
    parser.add_argument("--here", action="store_true", help="measure in this process")
    args = parser.parse_args()
    for candidates in args.candidates:
        if args.here:
            measure(candidates)
        else:
            subprocess.run([sys.executable, __file__, "--here", "--candidates", str(candidates)], check=True)


if __name__ == "__main__":
    main()
