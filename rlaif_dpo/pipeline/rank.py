"""One of the processes that do a stage together: `python -m rlaif_dpo.pipeline.rank RUN STAGE REPORTS`; see `spread.py`."""

import os
import sys
import threading
import time
from pathlib import Path

from rlaif_dpo.constitution import load_constitution
from rlaif_dpo.errors import UserError
from rlaif_dpo.files import JsonlWriter
from rlaif_dpo.pipeline.directory import RunDirectory
from rlaif_dpo.pipeline.pool import ModelPool
from rlaif_dpo.pipeline.spread import REPORT, Reporter
from rlaif_dpo.pipeline.stage import Context, Counts
from rlaif_dpo.pipeline.stages import stage_index, stages_of
from rlaif_dpo.progress import Progress, Silent
from rlaif_dpo.recipe import load_recipe


def main() -> None:
    """Do the stage, and report how it ended."""
    run, stage, reports = sys.argv[1:]
    threading.Thread(target=_end_with_the_run, daemon=True).start()
    with JsonlWriter(Path(reports) / REPORT.format(rank=os.environ["RANK"])) as report:

        def end(kind: str, value: object) -> None:
            report.write({"end": kind, "value": value, "time": time.time()})

        try:
            counts = _perform(Path(run), stage, report)
        except UserError as error:
            end("refused", str(error))
            sys.exit(1)
        except Exception as error:
            from rlaif_dpo.train.processes import Restart

            if isinstance(error, Restart):
                end("restart", error.found)
                sys.exit(1)
            end("failed", f"{type(error).__name__}: {' '.join(str(error).split())[:200]}")
            raise
        if os.environ["RANK"] == "0":
            end("done", counts)


def _perform(run: Path, name: str, report: JsonlWriter) -> Counts:
    import torch
    from accelerate import PartialState

    from rlaif_dpo.models.hardware import describe_hardware
    from rlaif_dpo.train.processes import is_main, wait_for_all

    PartialState(cpu=not torch.cuda.is_available())
    directory, recipe = RunDirectory(run), load_recipe(run / "recipe.yaml")
    stages = stages_of(recipe)
    on_load = (lambda: directory.write_env(describe_hardware(recipe.model.dtype))) if is_main() else (lambda: None)
    progress: Progress = Reporter(report) if is_main() else Silent()
    pool = ModelPool(recipe, progress, on_load=on_load)
    context = Context(recipe, load_constitution(run / "constitution.lock.yaml"), directory, pool, progress)
    counts = stages[stage_index(name, stages)].perform(context)
    wait_for_all()
    torch.distributed.destroy_process_group()
    return counts


def _end_with_the_run() -> None:
    """Wait until standard input ends: the process that started all this is there no more, or has told us to stop."""
    os.read(0, 1)
    os._exit(1)


if __name__ == "__main__":
    main()
