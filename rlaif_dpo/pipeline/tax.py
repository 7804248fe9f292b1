"""The alignment tax of a run: its policies on benchmarks, files of ours or tasks of lm-eval. Graded items are kept."""

import json
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rlaif_dpo.engines.base import Request, Sampling
from rlaif_dpo.errors import UserError
from rlaif_dpo.evaluate.benchmarks import Benchmark, grade_choice, grade_text, is_file, read_benchmark
from rlaif_dpo.evaluate.harness import check_harness, run_harness
from rlaif_dpo.evaluate.tax import tax_results
from rlaif_dpo.files import JsonlWriter, Row, read_journal, read_json, write_json, write_jsonl
from rlaif_dpo.messages import user
from rlaif_dpo.models.hardware import release_memory
from rlaif_dpo.models.source import model_source
from rlaif_dpo.pipeline.directory import open_run
from rlaif_dpo.pipeline.keys import file_ingredient
from rlaif_dpo.pipeline.pool import ModelPool
from rlaif_dpo.pipeline.stage import policies_of
from rlaif_dpo.progress import Progress
from rlaif_dpo.recipe import Recipe, load_recipe
from rlaif_dpo.seeding import content_hash, derive_seed

FOLDER = "tax"
BATCH = 8
"""Items at once, for lm-eval."""


def measure_tax(
    run: Path | str,
    tasks: Sequence[str],
    progress: Progress,
    columns: Mapping[str, str] | None = None,
    extract: str | None = None,
    max_new_tokens: int = 64,
    limit: int | None = None,
    lm_eval: str | None = None,
) -> dict[str, Any]:
    """Base, SFT and the final policy on every task; writes `tax/results.json`, which it returns, and `tax/items.jsonl`.

    Args:
        run: A finished run.
        tasks: Files (see `read_benchmark`) and names of lm-eval's tasks.
        progress: Who is told.
        columns: The files' own names of `question`, `options` and `answer`.
        extract: A regular expression for the answer within a reply, where an exact answer is asked for.
        max_new_tokens: The longest reply there.
        limit: Only this many items of each task.
        lm_eval: The Python that has lm-eval; by default the one in use.

    Raises:
        UserError: No such run or adapter, a file that cannot be used, lm-eval missing or failing.
    """
    path = open_run(Path(run)).path
    recipe = load_recipe(path / "recipe.yaml")
    adapters = policies_of(recipe.optimizer)
    for adapter in filter(None, adapters.values()):
        if not (path / adapter).is_dir():
            raise UserError(f"{path} has no {adapter} yet; finish it with `rlaif-dpo run {path / 'recipe.yaml'}`")
    pattern = _pattern(extract)
    benchmarks = [read_benchmark(task, columns or {}, limit) for task in tasks if is_file(task)]
    names = [benchmark.name for benchmark in benchmarks]
    if twice := {name for name in names if names.count(name) > 1}:
        raise UserError(f"Two files are called {twice.pop()}; give them different names")
    harnessed = [task for task in tasks if not is_file(task)]
    python = check_harness(lm_eval) if harnessed else ""
    rows = _files(path, recipe, benchmarks, pattern, max_new_tokens, progress) if benchmarks else []
    if harnessed:
        rows += _harness(path, recipe, harnessed, python, limit, progress)
    write_jsonl(path / FOLDER / "items.jsonl", rows)
    found = {
        **tax_results(rows, list(adapters), recipe.evaluate.bootstrap, recipe.seed),
        "over_refusal": _over_refusal(path, adapters),
    }
    write_json(path / FOLDER / "results.json", found)
    return found


def _files(
    path: Path, recipe: Recipe, benchmarks: Sequence[Benchmark], extract: re.Pattern[str] | None, room: int, progress: Progress
) -> list[Row]:
    """The graded items of our own files; those graded before by the same model, adapter and question are read."""
    journal = path / FOLDER / "items.jsonl"
    had = read_journal(journal)
    pool = ModelPool(recipe, progress)
    rows = []
    with JsonlWriter(journal) as writer:
        for policy, adapter in policies_of(recipe.optimizer).items():
            weights = file_ingredient(path / adapter) if adapter else ""
            for benchmark in benchmarks:
                how = [extract and extract.pattern, room] if benchmark.kind == "exact" else []
                what = [recipe.model.model_dump(mode="json"), weights, *how]
                keys = {i.id: content_hash(json.dumps([*what, i.question, i.options, i.answers])) for i in benchmark.items}
                ids = {item.id: f"{policy}/{benchmark.name}/{item.id}" for item in benchmark.items}
                done = [had[ids[i]] for i in ids if ids[i] in had and had[ids[i]].get("key") == keys[i]]
                left = {row["item"] for row in done}
                todo = Benchmark(benchmark.name, benchmark.kind, tuple(i for i in benchmark.items if i.id not in left))
                rows += done
                with progress.task(f"{benchmark.name}, {policy}", len(benchmark.items), len(done)) as task:
                    for item, graded in _grade(pool, path / adapter if adapter else None, todo, extract, room):
                        row = {
                            "id": ids[item],
                            "policy": policy,
                            "task": benchmark.name,
                            "item": item,
                            "key": keys[item],
                            **graded,
                        }
                        writer.write(row)
                        rows.append(row)
                        task.advance()
    return rows


def _grade(
    pool: ModelPool, adapter: Path | None, benchmark: Benchmark, extract: re.Pattern[str] | None, room: int
) -> Iterator[tuple[str, Row]]:
    """(item id, its grades) of every item, as they come."""
    if not benchmark.items:
        return
    engine, items = pool.engine(adapter), {item.id: item for item in benchmark.items}
    if benchmark.kind == "exact":
        sampling = Sampling(temperature=0.0, max_new_tokens=room)
        requests = [Request(id, (user(item.question),), sampling, derive_seed("tax", id)) for id, item in items.items()]
        for completion in engine.generate(requests):
            graded = grade_text(items[completion.id], completion.text, extract)
            yield completion.id, {"text": completion.text, "error": completion.error} | ({} if completion.error else graded)
        return
    from rlaif_dpo.evaluate.likelihood import Reply, likelihoods

    loaded, name = pool.base(), adapter.parent.name if adapter else None
    replies = [
        Reply(f"{n}/{item.id}", (user(item.question),), option)
        for item in items.values()
        for n, option in enumerate(item.options)
    ]
    found: dict[str, dict[int, float | None]] = {id: {} for id in items}
    for likelihood in likelihoods(loaded, name, replies, pool.max_batch_tokens):
        n, id = likelihood.id.split("/", 1)
        found[id][int(n)] = likelihood.logprob
        if len(found[id]) == len(items[id].options):
            logprobs = [found[id][option] for option in sorted(found[id])]
            if None in logprobs:
                yield id, {"logprobs": logprobs, "error": likelihood.error or "an option could not be scored"}
            else:
                yield id, {"logprobs": logprobs, "error": None, **grade_choice(items[id], [p for p in logprobs if p is not None])}


def _harness(path: Path, recipe: Recipe, tasks: Sequence[str], python: str, limit: int | None, progress: Progress) -> list[Row]:
    """The graded items of lm-eval's tasks, measured anew: each policy is loaded by a process of its own."""
    from rlaif_dpo.models.hardware import default_device, resolve_dtype

    release_memory()
    device = default_device()
    dtype = str(resolve_dtype(recipe.model.dtype, device)).removeprefix("torch.")
    rows = []
    with progress.task(f"lm-eval: {', '.join(tasks)}"[:40], len(policies_of(recipe.optimizer))) as task:
        for policy, adapter in policies_of(recipe.optimizer).items():
            arguments = {"pretrained": model_source(recipe.model.path), "dtype": dtype}
            arguments |= {"load_in_4bit": "True"} if recipe.model.quantization == "nf4" else {}
            arguments |= {"peft": str((path / adapter).resolve())} if adapter else {}
            folder = path / FOLDER / "lm-eval" / policy
            shutil.rmtree(folder, ignore_errors=True)
            found = run_harness(python, arguments, tasks, str(device), limit, BATCH, folder)
            rows += [{"id": f"{policy}/{row['task']}/{row['item']}", "policy": policy, "error": None, **row} for row in found]
            task.advance()
    return rows


def _over_refusal(path: Path, policies: Iterable[str]) -> dict[str, Any]:
    """Policy -> share of harmless look-alikes refused, from the run's evaluation; None where it was not measured."""
    truth = (read_json(path / "50-evaluate" / "results.json") or {}).get("truth")
    return {policy: truth["policies"][policy]["benign_refused"] if truth else None for policy in policies}


def _pattern(extract: str | None) -> re.Pattern[str] | None:
    if extract is None:
        return None
    try:
        return re.compile(extract)
    except re.error as error:
        raise UserError(f"--extract: {extract!r} is no regular expression ({error})") from None
