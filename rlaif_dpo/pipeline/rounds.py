"""Rounds: the method again from the policy that it ended with, on fresh prompts, until a rule stops it; the best is kept."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rlaif_dpo.errors import UserError
from rlaif_dpo.files import read_json, write_json, write_text
from rlaif_dpo.pipeline import runner
from rlaif_dpo.pipeline.directory import ROUNDS, RunDirectory, create, is_rounds
from rlaif_dpo.pipeline.gate import AUDIT
from rlaif_dpo.pipeline.launch import Launch
from rlaif_dpo.pipeline.preflight import Plan
from rlaif_dpo.pipeline.preflight import plan as plan_of
from rlaif_dpo.pipeline.runner import Run
from rlaif_dpo.pipeline.stage import ADAPTERS, SFT_ADAPTER
from rlaif_dpo.pipeline.stages import stages_of
from rlaif_dpo.pipeline.stop_rules import best_round, why_stop
from rlaif_dpo.progress import Progress, Silent
from rlaif_dpo.recipe.emit import dump_recipe
from rlaif_dpo.recipe.iteration import Start
from rlaif_dpo.recipe.schema import Recipe

Place = tuple[int, str | None]
"""A round, and a stage in it; None: the whole round."""


def run(
    recipe: Recipe,
    root: Path | str = "runs",
    from_stage: str | None = None,
    until: str | None = None,
    progress: Progress | None = None,
    retry: bool = False,
    launch: Launch | None = None,
) -> Run:
    """Do what `recipe` asks for and is not done yet, in `root/<recipe.name>`; of several rounds, returns the one that is kept.

    Args:
        recipe: What to do.
        root: The folder of runs.
        from_stage: Redo from this stage on, even what is finished; of several rounds as `round-2` or `round-2/40-dpo`.
        until: Stop after this stage, named in the same way.
        progress: Who is told.
        retry: Try the rows again that failed in finished stages. A stage that is resumed always does.
        launch: Do the stages that train in several processes, as `launch_of` allowed; what they train is the same.

    Raises:
        UserError: A stage name, the recipe's files, a run in use, a full disk. All finished rows are kept.
    """
    if not recipe.iterates:
        return runner.run(recipe, root, from_stage, until, progress, retry, launch)
    found = run_rounds(recipe, root, from_stage, until, progress, retry, launch)
    return Run(Path(root) / recipe.name / f"round-{found['best'] or 1}")


def run_rounds(
    recipe: Recipe,
    root: Path | str = "runs",
    from_stage: str | None = None,
    until: str | None = None,
    progress: Progress | None = None,
    retry: bool = False,
    launch: Launch | None = None,
) -> dict[str, Any]:
    """`run` of several rounds; returns what docs/rounds.md says of rounds.json.

    Raises:
        UserError: As `run`.
    """
    begin, end = _place(from_stage, recipe.rounds, "--from"), _place(until, recipe.rounds, "--until")
    if begin and end and begin[0] > end[0]:
        raise UserError(f"--from {from_stage} comes after --until {until}; swap them")
    told, folder = progress or Silent(), Path(root) / recipe.name
    if (folder / "recipe.yaml").exists() and not is_rounds(folder):
        raise UserError(f"{folder} holds one run, and these are rounds; give them another name=...")
    directory = create(folder)
    with directory.lock():
        write_text(folder / "recipe.yaml", dump_recipe(recipe))
        if not is_rounds(folder):
            _write(recipe, folder, [], None)
        rows: list[dict[str, Any]] = []
        stopped = None
        for number in range(1, recipe.rounds + 1):
            told.say(f"round {number} of {recipe.rounds}")
            own = round_recipe(recipe, number, folder)
            last = end[1] if end is not None and end[0] == number else None
            try:
                runner.run(own, folder, _from(begin, own, number), last, told, retry, launch)
            except UserError as error:
                if number == 1 or not _is_refused(folder / own.name):
                    raise
                stopped = {"round": number, "rule": "judge", "sentence": str(error)}
                break
            if last is not None:
                return dict(read_json(folder / ROUNDS))
            rows.append(measure_round(recipe, [folder / f"round-{n}" for n in range(1, number + 1)], told))
            broken = why_stop(rows, recipe.iteration)
            stopped = {"round": number, "rule": broken[0], "sentence": broken[1]} if broken else None
            found = _write(recipe, folder, rows, stopped)
            if stopped or (end is not None and end[0] == number):
                break
        return _finish(recipe, directory, rows, stopped, told) if stopped or len(rows) == recipe.rounds else found


def round_recipe(recipe: Recipe, number: int, folder: Path) -> Recipe:
    """The recipe of one round in `folder`: a whole one, that makes the round again by itself."""
    start = recipe.start
    if number > 1:
        before = folder / f"round-{number - 1}" / ADAPTERS[recipe.optimizer]
        anchor = str(folder / "round-1" / SFT_ADAPTER) if recipe.iteration.anchor_rejected else start.anchor
        start = Start(adapter=str(before), revise=recipe.iteration.sft == "every", anchor=anchor)
    update: dict[str, Any] = {"name": f"round-{number}", "round": number, "start": start}
    if recipe.iteration.judge_rounds is not None and number > recipe.iteration.judge_rounds:
        builders = recipe.pairs.builders.model_copy(update={"meta_judged": 0.0})
        update["pairs"] = recipe.pairs.model_copy(update={"builders": builders})
        update["iteration"] = recipe.iteration.model_copy(update={"judge_rounds": None})
    return recipe.model_copy(update=update)


def plan_rounds(recipe: Recipe, root: Path | str = "runs", gpu: str | None = None) -> list[Plan]:
    """What each round would do and cost, were none of them stopped.

    Raises:
        UserError: As `plan`.
    """
    folder = Path(root) / recipe.name
    return [plan_of(round_recipe(recipe, number, folder), folder, gpu) for number in range(1, recipe.rounds + 1)]


def report_rounds(folder: Path | str) -> dict[str, Any]:
    """Write the page of all rounds anew; returns rounds.json.

    Raises:
        UserError: A file of theirs is damaged.
    """
    from rlaif_dpo.report.rounds import write_rounds

    found = dict(read_json(Path(folder) / ROUNDS))
    write_rounds(Path(folder), found)
    return found


def measure_round(recipe: Recipe, runs: Sequence[Path], progress: Progress) -> dict[str, Any]:
    """A row of rounds.json about the last of `runs`, which are the rounds so far."""
    from rlaif_dpo.report.rounds import between, round_row

    row = round_row(runs, recipe.optimizer)
    if recipe.iteration.judge is not None:
        row |= _by_judge(recipe, runs, progress)
    elif len(runs) > 1:
        row["change"] = between(runs, row["measure"])
    return row


def _by_judge(recipe: Recipe, runs: Sequence[Path], progress: Progress) -> dict[str, Any]:
    """Quality as `iteration.judge` sees it: wins over the base's answers; the change, over those of the round before."""
    from rlaif_dpo.pipeline.win_rates import win_rates

    judge, final = [f"judge.model={recipe.iteration.judge}"], recipe.optimizer
    over_base = win_rates(runs[-1:], ["base", final], judge, progress)
    quality = over_base["comparisons"][f"{final}-base"]["pooled"]["win_rate"]
    found: dict[str, Any] = {"quality": quality, "measure": f"wins over the base by {over_base['judge']}"}
    if len(runs) > 1:
        (over_before,) = win_rates(runs[-2:], [final], judge, progress)["comparisons"].values()
        rate = over_before["pooled"]["win_rate"]
        less_half = {part: None if rate[part] is None else rate[part] - 0.5 for part in ("value", "low", "high")}
        found["change"] = rate | less_half  # a win rate of one half is no change
    return found


def _finish(
    recipe: Recipe, directory: RunDirectory, rows: list[dict[str, Any]], stopped: dict[str, Any] | None, told: Progress
) -> dict[str, Any]:
    from rlaif_dpo.report.rounds import summary, write_rounds

    found = _write(recipe, directory.path, rows, stopped, finished=True)
    write_rounds(directory.path, found)
    directory.event("finished", "rounds", best=found["best"], stopped=stopped)
    told.say(summary(found))
    return found


def _write(
    recipe: Recipe, folder: Path, rows: list[dict[str, Any]], stopped: dict[str, Any] | None, finished: bool = False
) -> dict[str, Any]:
    # A judge that was refused stops a round before it has a row.
    broke = stopped is not None and stopped["rule"] != "judge"
    found = {
        "name": recipe.name,
        "rounds": recipe.rounds,
        "finished": finished,
        "best": best_round(rows, broke),
        "stopped": stopped,
        "by_round": rows,
    }
    write_json(folder / ROUNDS, found)
    return found


def _place(where: str | None, rounds: int, option: str) -> Place | None:
    if where is None:
        return None
    name, _, stage = where.partition("/")
    number = name.removeprefix("round-")
    if name == number or not number.isdigit() or not 1 <= int(number) <= rounds:
        raise UserError(
            f"{option} {where}: of several rounds, name one from round-1 to round-{rounds}, or a stage as round-1/40-dpo"
        )
    return int(number), stage or None


def _from(begin: Place | None, recipe: Recipe, number: int) -> str | None:
    """The stage to redo from in a round; what comes after the round that was named is redone whole."""
    if begin is None or number < begin[0]:
        return None
    return (begin[1] if number == begin[0] else None) or stages_of(recipe)[0].name


def _is_refused(run: Path) -> bool:
    """Whether a round ended because its judge failed the audit."""
    audit = read_json(run / AUDIT)
    return audit is not None and not audit["gate"]["may_label"]
