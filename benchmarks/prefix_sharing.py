"""What computing a pair's prompt once for all its principles saves: `python benchmarks/prefix_sharing.py`.

Scores the same comparisons three ways: all at once, so that the engine shares what the prompts of a pair have in common; one
principle and order at a time, so that its batches are as full but no two prompts share anything; and one prompt at a time.
The scores must be the same to 1e-4. Prints the processor's seconds and the clock's, the best of `--repeats`.
"""

import argparse
import random
import time
from collections.abc import Iterable, Sequence

from rlaif_dpo.constitution import load_constitution
from rlaif_dpo.engines.base import OptionRequest, OptionScores
from rlaif_dpo.engines.transformers import TransformersEngine
from rlaif_dpo.judges.templates import OPTIONS, compare_messages
from rlaif_dpo.models.load import load_model
from rlaif_dpo.recipe.schema import Model
from rlaif_dpo.sandbox import world

TOLERANCE = 1e-4
Parts = Sequence[Sequence[OptionRequest]]


def requests(pairs: int) -> list[OptionRequest]:
    """`pairs` pairs of replies x eight principles x two orders."""
    rng, made = random.Random(0), []
    for n, prompt in enumerate(world.prompts(pairs, 0)):
        first, second = (world.render(prompt.facts, world.draw_answer(rng, prompt.facts["kind"], 0.5)) for _ in range(2))
        for principle in load_constitution("telehealth").principles:
            for order, replies in (("ab", (first, second)), ("ba", (second, first))):
                messages = compare_messages(prompt.messages, *replies, principle.compare)
                made.append(OptionRequest(f"{principle.id}/{order}/{n}", messages, OPTIONS))
    return made


def grouped(asked: Iterable[OptionRequest]) -> Parts:
    """The requests of one principle and order together: no two of them are of one pair."""
    groups: dict[str, list[OptionRequest]] = {}
    for request in asked:
        groups.setdefault(request.id.rpartition("/")[0], []).append(request)
    return list(groups.values())


def timed(engine: TransformersEngine, parts: Parts, repeats: int) -> tuple[dict[str, OptionScores], float, float]:
    """The scores, and the least processor and clock seconds of `repeats` passes over `parts`."""
    best = (float("inf"), float("inf"))
    for _ in range(repeats):
        processor, clock = time.process_time(), time.perf_counter()
        scores = {score.id: score for part in parts for score in engine.score_options(part)}
        best = min(best, (time.process_time() - processor, time.perf_counter() - clock))
    return scores, *best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="sandbox", help="a folder or a Hub id")
    parser.add_argument("--pairs", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    engine = TransformersEngine(load_model(Model(path=args.model, dtype="float32")))
    asked = requests(args.pairs)
    ways = {"shared prefix": [asked], "padded batches": grouped(asked), "one prompt at a time": [[r] for r in asked]}
    list(engine.score_options(asked[:16]))  # what the first call prepares is no part of any way
    measured = {name: timed(engine, parts, args.repeats) for name, parts in ways.items()}
    shared, processor, clock = measured["shared prefix"]
    tokens = sum(score.prompt_tokens for score in shared.values())
    print(f"{engine.name}: {args.pairs} pairs, 8 principles, 2 orders: {len(asked)} prompts of {tokens / len(asked):.0f} tokens")
    print("| scoring | CPU s | s | CPU times the shared | times the shared |\n|---|---|---|---|---|")
    for name, (_, cpu, seconds) in measured.items():
        print(f"| {name} | {cpu:.2f} | {seconds:.2f} | {cpu / processor:.1f} | {seconds / clock:.1f} |")
    worst = max(
        abs(a - b) for scores, _, _ in measured.values() for i in shared
        for a, b in zip(shared[i].logprobs, scores[i].logprobs, strict=True)
    )  # fmt: skip
    print(f"largest difference of a log-probability: {worst:.1e}")
    if worst > TOLERANCE:
        raise SystemExit("The ways disagree.")


if __name__ == "__main__":
    main()
