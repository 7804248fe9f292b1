"""Run a recipe, start to end: skip what is finished, resume what is half-finished, redo what has changed."""

import errno
import shlex
import time
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path
from typing import Any

from rlaif_dpo.constitution import dump_lock, load_constitution
from rlaif_dpo.errors import UserError
from rlaif_dpo.files import write_text
from rlaif_dpo.pipeline.checks import check_gold, check_keys, check_recipe, check_start, check_suites, check_trackers, check_vllm
from rlaif_dpo.pipeline.directory import RunDirectory, create, disk_full, is_rounds, open_run, store_of, unwritable
from rlaif_dpo.pipeline.keys import changes, key_of
from rlaif_dpo.pipeline.launch import Launch
from rlaif_dpo.pipeline.pool import ModelPool
from rlaif_dpo.pipeline.spread import spread
from rlaif_dpo.pipeline.stage import SFT_ADAPTER, Context, Stage
from rlaif_dpo.pipeline.stages import OPTIMIZERS, REPORT, SUITES_STAGE, stage_index, stages_of
from rlaif_dpo.pipeline.state import StageStatus, status
from rlaif_dpo.progress import Progress, Silent
from rlaif_dpo.recipe.emit import dump_recipe
from rlaif_dpo.recipe.schema import Recipe

FAILED = "failed rows"
"""Among the counts of a stage: rows whose request failed. Absent where none did."""


class Run:
    """A run on disk, finished or not."""

    def __init__(self, path: Path | str) -> None:
        self.path = open_run(Path(path)).path

    def report(self) -> dict[str, Any]:
        """Write `report.html` and `README.md` anew and return the evidence behind them.

        Raises:
            UserError: A file of the run is damaged, or the disk is full or read-only.
        """
        from rlaif_dpo.report.write import write_report

        try:
            write_report(self.path)
        except OSError as error:
            raise _mendable(RunDirectory(self.path), error) or error from error
        return self.evidence()

    def evidence(self) -> dict[str, Any]:
        """Everything measured so far; docs/evidence.md says what."""
        from rlaif_dpo.report.evidence import evidence

        return evidence(self.path)

    def finished(self) -> bool:
        """Whether every stage is done, as the run's recipe asks for it."""
        return all(stage.state == "finished" for stage in self.status())

    def status(self) -> list[StageStatus]:
        """Every stage: finished, half, stale or absent."""
        return status(self.path)


def run(
    recipe: Recipe,
    root: Path | str = "runs",
    from_stage: str | None = None,
    until: str | None = None,
    progress: Progress | None = None,
    retry: bool = False,
    launch: Launch | None = None,
) -> Run:
    """Do the stages of `recipe`, one run, in `root/<recipe.name>` that are not done yet.

    Args:
        recipe: What to do.
        root: The folder of runs.
        from_stage: Redo from this stage on, even what is finished.
        until: Stop after this stage.
        progress: Who is told.
        retry: Try the rows again that failed in finished stages. A stage that is resumed always does.
        launch: Do the stages that train in several processes, as `launch_of` allowed; what they train is the same.

    Raises:
        UserError: A stage name, the recipe's files, a run in use, a full disk. All finished rows are kept.
    """
    stages = stages_of(recipe)
    first = stage_index(from_stage, stages) if from_stage else None
    last = stage_index(until, stages) if until else len(stages)
    if first is not None and first > last:
        raise UserError(f"--from {from_stage} comes after --until {until}; swap them")
    learners = [stage.name for stage in stages if stage.name in {other.name for other in OPTIMIZERS[recipe.optimizer]}]
    constitution = load_constitution(recipe.constitution)
    check_recipe(recipe, constitution)
    check_start(recipe)
    check_gold(recipe, constitution)
    check_keys(recipe)
    check_trackers(recipe)
    check_vllm(recipe)
    told = progress or Silent()
    check_suites(recipe, told.say)
    directory = create(Path(root) / recipe.name)
    if is_rounds(directory.path):
        raise UserError(f"{directory.path} holds rounds, and this is one run; give it another name=...")
    with directory.lock():
        store, policy = store_of(directory.path), directory.path / SFT_ADAPTER
        pool = ModelPool(recipe, told, store, on_load=lambda: _write_env(directory, recipe), policy=policy)
        context = Context(recipe, constitution, directory, pool, told, launch)
        at = "inputs"
        try:
            write_text(directory.path / "recipe.yaml", dump_recipe(recipe))
            write_text(directory.path / "constitution.lock.yaml", dump_lock(constitution))
            for stage in stages[first : last + 1] if first is not None else ():
                directory.discard(stage.name)
            for stage in stages[: last + 1]:
                at = stage.name
                if stage.name == learners[0]:
                    _discard_other_optimizers(context, learners)
                _perform(stage, context, retry)
            if last == len(stages):
                at = REPORT
                _remove_unasked(context, {stage.name for stage in stages})
                Run(directory.path).report()
                directory.event("finished", REPORT)
        except KeyboardInterrupt:
            directory.event("interrupted", at)
            raise
        except Exception as error:
            with suppress(OSError):  # the disk that is full, or read-only, is the one the journal is on
                directory.event("failed", at, error=type(error).__name__)
            if (shown := _mendable(directory, error)) is not None:
                raise shown from error
            raise
        finally:
            pool.close()
    return Run(directory.path)


def resume_command(recipe: Recipe, root: Path | str = "runs", until: str | None = None, launch: Launch | None = None) -> str:
    """The command line that goes on with a stopped run."""
    words = ["rlaif-dpo", "run", str(Path(root) / recipe.name / "recipe.yaml")]
    words += ["--root", str(root)] if Path(root) != Path("runs") else []
    words += ["--until", until] if until else []
    words += ["--accelerate", launch.strategy, "--processes", str(launch.processes)] if launch else []
    return shlex.join(words)


def _perform(stage: Stage, context: Context, retry: bool) -> None:
    directory, say = context.directory, context.progress.say
    ingredients = stage.ingredients(context.recipe, context.constitution, directory.path)
    key = key_of(ingredients)
    done, half = directory.finished(stage.name), directory.half(stage.name)
    if done is not None and done.key == key:
        failed = done.counts.get(FAILED, 0)
        if not (retry and failed):
            directory.event("skipped", stage.name)
            say(
                f"{stage.name}: finished before, skipped"
                + (f"; failed rows: {failed}, --retry tries them again" if failed else "")
            )
            return
        directory.reopen(done)
        directory.event("retried", stage.name, rows=failed)
        say(f"{stage.name}: tries its failed rows again ({failed})")
    elif done is None and half is not None and half.key == key:
        directory.event("resumed", stage.name)
        say(f"{stage.name}: goes on where it stopped")
    else:
        before = done or half
        changed = changes(before.ingredients, ingredients) if before else []
        directory.discard(stage.name)
        directory.event("started", stage.name, key=key, changed=changed)
        say(f"{stage.name}: redone because {'; '.join(changed)}" if changed else f"{stage.name}: starts")
    record = directory.begin(stage.name, key, ingredients)
    start = time.monotonic()
    counts = spread(stage, context) if context.launch and stage.spreads else stage.perform(context)
    if failed := stage.failed_rows(directory.folder(stage.name)):
        counts = counts | {FAILED: failed}
    done = directory.finish(record, time.monotonic() - start, counts, stage.outputs)
    directory.event("finished", stage.name, seconds=done.seconds, counts=done.counts)


def _remove_unasked(context: Context, asked: Collection[str]) -> None:
    """Remove the suites if the recipe no longer has any: their numbers are about another run than the report's."""
    if SUITES_STAGE.name not in asked and context.directory.folder(SUITES_STAGE.name).exists():
        context.directory.discard(SUITES_STAGE.name)
        context.directory.event("removed", SUITES_STAGE.name)
        context.progress.say(f"{SUITES_STAGE.name}: removed, the recipe no longer asks for it")


def _discard_other_optimizers(context: Context, learners: Collection[str]) -> None:
    """Remove what another optimizer trained here: a run holds one final policy, and its folders say how that was made."""
    chosen, directory = context.recipe.optimizer, context.directory
    for optimizer, stages in OPTIMIZERS.items():
        for stage in stages:
            if stage.name not in learners and directory.folder(stage.name).exists():
                directory.discard(stage.name)
                directory.event("removed", stage.name, changed=[f'optimizer "{optimizer}" -> "{chosen}"'])
                context.progress.say(f"{stage.name}: removed, the optimizer is {chosen} now")


def _write_env(directory: RunDirectory, recipe: Recipe) -> None:
    from rlaif_dpo.models.hardware import describe_hardware

    directory.write_env(describe_hardware(recipe.model.dtype))


def _mendable(directory: RunDirectory, error: Exception) -> UserError | None:
    """What to tell the user of a full or read-only disk; None for other errors."""
    if isinstance(error, OSError) and error.errno in (errno.EACCES, errno.EROFS, errno.EPERM):
        return unwritable(directory.path, error)
    return disk_full(directory.path, error)
