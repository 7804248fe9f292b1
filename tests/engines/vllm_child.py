"""Run by a Python that has vLLM: what `VllmEngine` says on the sandbox model, as JSON. Not a test itself."""

import json
import os
import time
from collections.abc import Iterable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from rlaif_dpo.constitution import load_constitution
from rlaif_dpo.engines.base import Completion, Engine, OptionRequest, OptionScores, Request, Sampling
from rlaif_dpo.judges.pairwise import PairwiseJudge
from rlaif_dpo.messages import user
from rlaif_dpo.pipeline import run
from rlaif_dpo.recipe import load_recipe
from rlaif_dpo.recipe.schema import JudgeSettings, Model
from rlaif_dpo.sandbox import world
from rlaif_dpo.sandbox.gold import gold_items
from rlaif_dpo.seeding import derive_rng, derive_seed

GREEDY, PAIRS = 64, 32
SMALL = (
    "name=small", "prompts.revise=8", "prompts.pairs=8", "prompts.evaluate=3", "revise.rounds=1", "pairs.candidates=2",
    "pairs.per_prompt=1", "judge.audit_pairs=24", "sft.epochs=1",
)  # fmt: skip
SCALE = tuple(str(n) for n in range(1, 11))


def drafts(count: int = GREEDY, seed: int = 0, **sampling: Any) -> list[Request]:
    """Answers to the sandbox's prompts, greedy unless `sampling` says otherwise."""
    settings = Sampling(**({"temperature": 0.0, "max_new_tokens": 64} | sampling))
    rows = [world.draw_prompt(derive_rng("vllm", n), held_out=True) for n in range(count)]
    return [Request(f"d{n}", row.messages, settings, derive_seed(seed, n)) for n, row in enumerate(rows)]


def bad() -> list[Request]:
    """A conversation that is too long, and a temperature that vLLM refuses."""
    good = drafts(1)[0]
    return [
        replace(good, id="long", messages=(user("elbow " * 5000),)),
        replace(good, id="hot", sampling=Sampling(temperature=3.0)),
    ]


def questions(count: int = 24) -> list[OptionRequest]:
    """Verdicts between letters, and marks on a scale whose "10" has two tokens."""
    rows = drafts(count)
    return [OptionRequest(f"{len(o)}/{r.id}", r.messages, o) for r in rows for o in (("A", "B"), SCALE)]


def compared(engine: Engine) -> dict[str, dict[str, float | None]]:
    """p of every principle and pair."""
    items = gold_items(load_constitution("telehealth"), JudgeSettings(), PAIRS, seed=5)
    judgments = PairwiseJudge(engine, JudgeSettings()).compare([item.comparison for item in items])
    return {judgment.id: {verdict.principle_id: verdict.p for verdict in judgment.verdicts} for judgment in judgments}


def by_id(rows: Iterable[Completion | OptionScores]) -> dict[str, dict[str, Any]]:
    return {row.id: asdict(row) for row in rows}


def children() -> int:
    """Processes below this one, but for the one with which Python keeps track of what they share."""
    import psutil

    living = [child for child in psutil.Process().children(recursive=True) if child.status() != psutil.STATUS_ZOMBIE]
    return sum("resource_tracker" not in " ".join(child.cmdline()) for child in living)


def say(out: str, adapter: str) -> None:
    """Write all of it to the file `out`; `adapter` is an adapter of the sandbox."""
    from rlaif_dpo.engines.vllm import VllmEngine
    from rlaif_dpo.engines.vllm_model import VllmModel

    model, found, began = VllmModel(Model()), dict[str, Any](), time.monotonic()

    def told(what: str) -> None:
        print(f"{what}: {time.monotonic() - began:.1f} s", flush=True)

    adapted, bare = VllmEngine(model, Path(adapter)), VllmEngine(model)
    found["before"] = children()
    found["greedy"] = by_id(bare.generate(drafts()))
    told("started and answered")
    found["during"] = children()
    found["skip"] = by_id(bare.generate(drafts(), skip={f"d{n}" for n in range(GREEDY - 1)}))
    found["bad"] = by_id(bare.generate([*bad(), *drafts(3)]))
    for name, seed in (("sampled", 1), ("again", 1), ("other", 2)):
        found[name] = by_id(bare.generate(drafts(32, seed, temperature=1.0)))
    found["short"] = by_id(bare.generate(drafts(4, max_new_tokens=3)))
    told("generated")
    found["options"] = by_id(bare.score_options(questions()))
    dropped = bare.generate(drafts())
    next(dropped)
    dropped.close()
    mixed = list(zip(adapted.generate(drafts(24)), bare.score_options(questions(12)), strict=True))
    found["mixed"] = [by_id(side) for side in zip(*mixed, strict=True)]
    told("scored")
    found["judged"] = compared(bare)
    told("judged")
    found["name"] = adapted.name
    found["adapted"] = by_id(adapted.generate(drafts()))
    found["adapted options"] = by_id(adapted.score_options(questions()))
    model.close()
    found["after"] = children()
    told("closed")
    Path(out).write_text(json.dumps(found), encoding="utf-8")


def train_between(root: str) -> None:
    """A run to the end of its pairs: vLLM, a training by transformers, vLLM again. All within this process: it starts faster."""
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    run(load_recipe("quickstart", [*SMALL, "model.engine=vllm"]), root, until="30-pairs")


def both(out: str, adapter: str, root: str) -> None:
    say(out, adapter)
    train_between(root)
