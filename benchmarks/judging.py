"""The judge against generate-and-parse, one question at a time, on the same pairs: `python benchmarks/judging.py --pairs 20`.

All ask the sandbox model the same prompts, both orders, under every principle of the telehealth constitution. The judge reads
the options' log-probabilities, in batches that compute what the prompts of a pair share once; the others generate each answer
greedily and look for its letter: once with `model.generate` of transformers, as a script would, and once with our own engine.
A verdict is the letter of one prompt; all must give the same ones. CPU seconds are less disturbed by other work on the machine
than the clock is.
"""

import argparse
import re
import time
from collections.abc import Callable
from functools import partial

import torch

from rlaif_dpo.constitution import load_constitution
from rlaif_dpo.engines.base import Engine, Request, Sampling
from rlaif_dpo.engines.transformers import TransformersEngine
from rlaif_dpo.judges.base import Comparison, Criterion
from rlaif_dpo.judges.pairwise import PairwiseJudge
from rlaif_dpo.judges.templates import PRINCIPLE
from rlaif_dpo.messages import Message
from rlaif_dpo.models.load import LoadedModel, load_model
from rlaif_dpo.recipe.schema import JudgeSettings, Model
from rlaif_dpo.sandbox import world
from rlaif_dpo.seeding import derive_rng

LONGEST = 8
Verdicts = dict[str, str]


def draw_pairs(count: int, seed: int) -> list[Comparison]:
    """Pairs of different answers to prompts of the sandbox, under every principle."""
    criteria = tuple(Criterion(p.id, p.compare) for p in load_constitution("telehealth").for_phase("judge"))
    pairs = []
    for row in world.prompts(count, seed):
        rng = derive_rng(seed, "benchmark", row.id)
        first, second = "", ""
        while first == second:
            first, second = (world.render(row.facts, world.draw_answer(rng, row.facts["kind"], 0.5)) for _ in range(2))
        pairs.append(Comparison(row.id, row.messages, first, second, criteria))
    return pairs


def by_judge(engine: Engine, pairs: list[Comparison]) -> Verdicts:
    verdicts = {}
    for judgment in PairwiseJudge(engine, JudgeSettings()).compare(pairs):
        for k, verdict in enumerate(judgment.verdicts):
            assert verdict.order_logits is not None
            logit_ab, logit_ba = verdict.order_logits
            verdicts[f"{judgment.id}/{k}/ab"] = "A" if logit_ab > 0 else "B"
            verdicts[f"{judgment.id}/{k}/ba"] = "B" if logit_ba > 0 else "A"
    return verdicts


def by_parsing(answer: Callable[[tuple[Message, ...]], str], pairs: list[Comparison]) -> Verdicts:
    verdicts = {}
    for pair in pairs:
        for k, criterion in enumerate(pair.criteria):
            for order in ("ab", "ba"):
                found = re.search(r"\b[AB]\b", answer(PRINCIPLE.ask(pair, criterion, swapped=order == "ba")))
                verdicts[f"{pair.id}/{k}/{order}"] = found[0] if found else "none"
    return verdicts


def answer_with_engine(engine: Engine, messages: tuple[Message, ...]) -> str:
    (answer,) = engine.generate([Request("one", messages, Sampling(0.0, max_new_tokens=LONGEST), seed=0)])
    return answer.text


@torch.inference_mode()
def answer_with_transformers(loaded: LoadedModel, messages: tuple[Message, ...]) -> str:
    tokenizer = loaded.tokenizer
    inputs = tokenizer.apply_chat_template(list(messages), add_generation_prompt=True, return_tensors="pt", return_dict=True)
    output = loaded.model.generate(**inputs.to(loaded.device), do_sample=False, max_new_tokens=LONGEST)
    return str(tokenizer.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    loaded = load_model(Model(path="sandbox"))
    engine = TransformersEngine(loaded)
    ways: dict[str, Callable[[list[Comparison]], Verdicts]] = {
        "judge": partial(by_judge, engine),
        "one at a time, transformers": partial(by_parsing, partial(answer_with_transformers, loaded)),
        "one at a time, our engine": partial(by_parsing, partial(answer_with_engine, engine)),
    }
    pairs = draw_pairs(args.pairs, args.seed)
    first: tuple[float, float, Verdicts] | None = None
    print(f"{len(pairs)} pairs, {torch.get_num_threads()} threads")
    for name, ask in ways.items():
        ask(pairs[:1])  # warm up
        clock, cpu = time.perf_counter(), time.process_time()
        verdicts = ask(pairs)
        clock, cpu = time.perf_counter() - clock, time.process_time() - cpu
        first = first or (clock, cpu, verdicts)
        same = sum(verdicts[question] == verdict for question, verdict in first[2].items())
        print(
            f"{name:28} {len(pairs) / clock:8.2f} pairs/s by the clock ({clock / first[0]:5.1f} x the judge's time), "
            f"{cpu:6.2f} s of CPU ({cpu / first[1]:5.1f} x); {same} of {len(verdicts)} verdicts the judge's",
            flush=True,
        )


if __name__ == "__main__":
    main()
