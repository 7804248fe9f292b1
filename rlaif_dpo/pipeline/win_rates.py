"""Win rates of finished runs: their answers to the held-out prompts, compared by a judge. Nothing is judged twice."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rlaif_dpo.bootstrap import draw
from rlaif_dpo.constitution import Constitution, load_constitution
from rlaif_dpo.errors import UserError, did_you_mean
from rlaif_dpo.evaluate.answers import Answers, read_answers
from rlaif_dpo.evaluate.judged import by_pair, compare_answers, judge_results
from rlaif_dpo.files import Row, read_journal
from rlaif_dpo.judges.base import Comparison
from rlaif_dpo.judges.build import build_judge, check_judge
from rlaif_dpo.judges.journal import is_settled, judge_all
from rlaif_dpo.pipeline import roles
from rlaif_dpo.pipeline.audit import untreated
from rlaif_dpo.pipeline.checks import check_keys
from rlaif_dpo.pipeline.directory import open_run, store_of
from rlaif_dpo.pipeline.pool import ModelPool
from rlaif_dpo.pipeline.stage import PROMPTS, SFT_ADAPTER, read_prompts
from rlaif_dpo.progress import Progress
from rlaif_dpo.prompts.rows import PromptRow
from rlaif_dpo.recipe import Recipe, load_recipe
from rlaif_dpo.seeding import content_hash, derive_seed

FOLDER = "winrate"
"""In the first run: what was judged for it and is not among the run's own judgments."""
EVALUATED = "50-evaluate"


def win_rates(
    runs: Sequence[Path | str], policies: Sequence[str], overrides: Sequence[str], progress: Progress
) -> dict[str, Any]:
    """Each later policy against each earlier one, by the judge of the first run's recipe under its constitution.

    Args:
        runs: Finished runs. Of several runs the prompts count that all of them answered.
        policies: Which to compare; by default all of one run, and the last of each of several.
        overrides: Settings of the first run's recipe to change, e.g. `judge.model=...` for another judge.
        progress: Who is told.

    Returns:
        What docs/winrate.md lists.

    Raises:
        UserError: A run without answers, an unknown policy, nothing to compare, a judge that cannot be built.
    """
    paths = [open_run(Path(run)).path for run in runs]
    own = load_recipe(paths[0] / "recipe.yaml")
    recipe = load_recipe(paths[0] / "recipe.yaml", overrides)
    locked = load_constitution(paths[0] / "constitution.lock.yaml")
    changed = any(override.partition("=")[0].strip() == "constitution" for override in overrides)
    constitution = load_constitution(recipe.constitution) if changed else locked
    answers = _players(paths, policies)
    known = {path: {prompt.id for prompt in read_prompts(path / PROMPTS, "evaluate")} for path in paths}
    prompts = [p for p in read_prompts(paths[0] / PROMPTS, "evaluate") if all(p.id in ids for ids in known.values())]
    if not prompts:
        raise UserError("These runs have no held-out prompt in common; give runs with the same `prompts` and `seed`")
    same = (recipe.judge, recipe.endpoints, constitution.hash) == (own.judge, own.endpoints, locked.hash)
    had = read_journal(paths[0] / EVALUATED / "judgments.jsonl") if same and len(paths) == 1 else {}
    comparisons = compare_answers(prompts, answers, constitution, recipe.judge)
    missing = [c for c in comparisons if c.id not in had or not is_settled(had[c.id])]
    rows = had | _judge(missing, paths[0], recipe, constitution, prompts, progress)
    draws = draw(len(prompts), recipe.evaluate.bootstrap, derive_seed(recipe.seed, "bootstrap"))
    return {
        "runs": [str(path) for path in paths],
        "policies": list(answers),
        "constitution": {"name": constitution.name, "hash": constitution.hash},
        "prompts": len(prompts),
        **judge_results(prompts, answers, by_pair(prompts, answers, rows), draws),
    }


def _players(paths: Sequence[Path], policies: Sequence[str]) -> Answers:
    """Policy -> its answers; with several runs a policy is called `run/policy`."""
    names = [path.name for path in paths]
    found: Answers = {}
    for path, name in zip(paths, names, strict=True):
        answers = read_answers(path / EVALUATED / "answers.jsonl")
        if not answers:
            raise UserError(f"{path} has no answers yet; finish it with `rlaif-dpo run {path / 'recipe.yaml'}`")
        if unknown := [policy for policy in policies if policy not in answers]:
            raise UserError(f'{path} has no policy "{unknown[0]}".{did_you_mean(unknown[0], answers)}')
        wanted = policies or (list(answers) if len(paths) == 1 else list(answers)[-1:])
        label = name if names.count(name) == 1 else str(path)
        found |= {policy if len(paths) == 1 else f"{label}/{policy}": answers[policy] for policy in answers if policy in wanted}
    if len(found) < 2:
        raise UserError(f"There is only {', '.join(found)} to compare; name a second run or policy")
    return found


def _judge(
    comparisons: Sequence[Comparison],
    run: Path,
    recipe: Recipe,
    constitution: Constitution,
    prompts: Sequence[PromptRow],
    progress: Progress,
) -> dict[str, Row]:
    """Judgment rows, kept in a file whose name stands for the judge, the constitution and the texts. No model is loaded for none.

    The judge's labels are untreated: what the run's audit proposed belongs to the run's own judge, and hardly moves a verdict.
    """
    if not comparisons:
        return {}
    check_judge(recipe.judge)
    check_keys(recipe)
    endpoints = roles.endpoints(recipe, roles.judges(recipe))
    servers = {name: [endpoint.urls[0], endpoint.model] for name, endpoint in endpoints.items()}
    texts = [[c.id, c.first, c.second] for c in comparisons]
    key = content_hash(json.dumps([recipe.judge.model_dump(mode="json"), recipe.model.path, servers, constitution.hash, texts]))
    pool = ModelPool(recipe, progress, store_of(run), policy=run / SFT_ADAPTER)
    try:
        judge = build_judge(untreated(recipe.judge), pool.guests(), recipe.seed, prompts, recipe.endpoints)
        return judge_all(comparisons, judge, run / FOLDER / f"{key}.jsonl", progress)
    finally:
        pool.close()
