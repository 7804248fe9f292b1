"""Tokens a second of our engine against stock `generate`, on the same prompts: `python benchmarks/engine.py`.

The sandbox model answers `--prompts` prompts of its world at temperature 1, at most 96 tokens each, four ways: our engine in
batches; transformers' `generate` in static batches of 128, in order of length; its `generate_batch` (continuous batching); and
`generate` for one prompt at a time, on a few of the prompts. Each way is run `--repeats` times, in turn, so that what else the
machine does hits all alike; the fastest counts. Tokens are those of answers, padding and what follows the end not counted.
Where vLLM is installed, it answers too; its start, which is not in the speed, is told.
"""

import argparse
import time
from collections.abc import Callable, Sequence
from importlib.util import find_spec

import torch
from transformers import GenerationConfig

from rlaif_dpo.engines.base import Engine, Request, Sampling
from rlaif_dpo.engines.decode import left_pad
from rlaif_dpo.engines.transformers import TransformersEngine
from rlaif_dpo.engines.vllm import VllmEngine
from rlaif_dpo.engines.vllm_model import VllmModel
from rlaif_dpo.models.chat import render
from rlaif_dpo.models.load import LoadedModel, load_model
from rlaif_dpo.recipe.schema import Model
from rlaif_dpo.sandbox import world
from rlaif_dpo.seeding import derive_seed

NEW_TOKENS = 96
STATIC = 128

Way = Callable[[], int]
"""Answers the prompts and returns the number of tokens of the answers."""


def ours(engine: Engine, requests: Sequence[Request]) -> int:
    return sum(completion.completion_tokens for completion in engine.generate(requests))


@torch.inference_mode()
def static(loaded: LoadedModel, prompts: Sequence[Sequence[int]], size: int) -> int:
    pad, end, tokens = loaded.tokenizer.pad_token_id, loaded.tokenizer.eos_token_id, 0
    ordered = sorted(prompts, key=len, reverse=True)
    for start in range(0, len(ordered), size):
        ids, mask = left_pad(ordered[start : start + size], pad, loaded.device)
        output = loaded.model.generate(
            input_ids=ids, attention_mask=mask, do_sample=True, temperature=1.0, top_k=0, max_new_tokens=NEW_TOKENS,
            pad_token_id=pad, eos_token_id=end,
        )  # fmt: skip
        for answer in output[:, ids.shape[1] :].tolist():
            tokens += answer.index(end) + 1 if end in answer else len(answer)
    return tokens


def continuous(loaded: LoadedModel, prompts: Sequence[Sequence[int]]) -> int:
    settings = GenerationConfig(
        do_sample=True, temperature=1.0, top_k=0, max_new_tokens=NEW_TOKENS,
        eos_token_id=loaded.tokenizer.eos_token_id, pad_token_id=loaded.tokenizer.pad_token_id,
    )  # fmt: skip
    outputs = loaded.model.generate_batch(
        inputs=[list(prompt) for prompt in prompts], generation_config=settings, progress_bar=False
    )
    return sum(len(output.generated_tokens) for output in outputs.values())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, default=1024)
    parser.add_argument("--one-at-a-time", type=int, default=48, help="how many of the prompts the slowest way answers")
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    loaded = load_model(Model(path="sandbox"))
    rows = world.prompts(args.prompts, 0)
    sampling = Sampling(temperature=1.0, max_new_tokens=NEW_TOKENS)
    requests = [Request(row.id, row.messages, sampling, derive_seed(0, "benchmark", row.id)) for row in rows]
    prompts = [render(loaded.tokenizer, row.messages) for row in rows]
    ways: dict[str, Way] = {
        "our engine": lambda: ours(TransformersEngine(loaded), requests),
        f"generate, batches of {STATIC}": lambda: static(loaded, prompts, STATIC),
        "generate_batch, continuous": lambda: continuous(loaded, prompts),
        "generate, one at a time": lambda: static(loaded, prompts[: args.one_at_a_time], 1),
    }
    model = VllmModel(Model(path="sandbox"))
    if find_spec("vllm") is not None:
        clock = time.perf_counter()
        model.start()
        print(f"vLLM starts in {time.perf_counter() - clock:.0f} s")
        ways["vLLM"] = lambda: ours(VllmEngine(model), requests)
    best = dict.fromkeys(ways, 0.0)
    for _ in range(args.repeats):
        for name, way in ways.items():
            clock = time.perf_counter()
            best[name] = max(best[name], way() / (time.perf_counter() - clock))
    print(f"{len(rows)} prompts, {torch.get_num_threads()} threads, best of {args.repeats}")
    for name, speed in best.items():
        print(f"{name:28} {speed:8,.0f} tokens/s   ours is {best['our engine'] / speed:5.2f} x")
    model.close()


if __name__ == "__main__":
    main()
