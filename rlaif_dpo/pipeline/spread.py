"""A stage that trains, done by several processes under `accelerate launch` while this one waits.

The processes are `rank.py`. What the main one has to say (rows done, sentences, how it ended) comes through a file, line by line;
what they print goes to `processes.log` in the stage's folder. Their standard input is a pipe that nobody but this process holds
open: when it ends, however it ends, they see that and stop.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, BinaryIO

from rlaif_dpo.errors import UserError
from rlaif_dpo.files import JsonlWriter, read_jsonl
from rlaif_dpo.pipeline.stage import Context, Counts, Stage
from rlaif_dpo.progress import Progress, Task

LOG = "processes.log"
REPORT = "{rank}.jsonl"
"""What a process reports, in a folder of their own: progress (the main one), and how it ended."""
GRACE_S = 30.0
"""How long processes have to stop once they are told to."""
POLL_S = 0.1


def spread(stage: Stage, context: Context) -> Counts:
    """`stage.perform` in the processes of `context.launch`; if one runs out of memory, all begin again with fewer rows at once.

    Raises:
        UserError: What the user can mend of what a process raised; or that one failed, and where its log is.
    """
    from rlaif_dpo.train.micro_batch import keep_size

    launch, folder = context.launch, context.directory.folder(stage.name)
    assert launch is not None
    context.pool.release()
    context.directory.event("spread", stage.name, strategy=launch.strategy, processes=launch.processes)
    command = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(launch.config)]
    command += ["--num_processes", str(launch.processes), "--module", "rlaif_dpo.pipeline.rank"]
    command += [str(context.directory.path), stage.name]
    while True:
        with TemporaryDirectory() as reports:
            code = supervise([*command, reports], folder / LOG, Path(reports), context.progress)
            ends = _ends(Path(reports))
        if "restart" in ends:
            found, section = ends["restart"], {"20-sft": context.recipe.sft, "40-dpo": context.recipe.dpo}[stage.name]
            name = f"{stage.name}, each of {launch.processes} processes"
            keep_size(folder, found, name, section.batch_size, context.progress, context.micro_batch(stage.name))
            continue
        if "refused" in ends:
            raise UserError(ends["refused"])
        if code == 0 and "done" in ends:
            return dict(ends["done"])
        why = ends.get("failed", f"it ended with code {code}")
        raise UserError(f"{stage.name}: one of {launch.processes} processes failed: {why}; its log is {folder / LOG}")


def supervise(command: Sequence[str], log: Path, reports: Path, progress: Progress) -> int:
    """Run `command`, its output into `log`, and tell `progress` what the main process reports; returns its exit code.

    However this ends (Ctrl-C, an error), no process of the command is left.
    """
    report = reports / REPORT.format(rank=0)
    report.touch()
    with log.open("wb") as output, report.open("rb") as lines, ExitStack() as bars:
        relay = Relay(lines, progress, bars)
        child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=output, stderr=subprocess.STDOUT, start_new_session=True)
        try:
            while child.poll() is None:
                relay.pass_on()
                time.sleep(POLL_S)
            relay.pass_on()
        finally:
            assert child.stdin is not None
            child.stdin.close()
            try:
                child.wait(GRACE_S)
            except subprocess.TimeoutExpired:
                os.killpg(child.pid, signal.SIGKILL)
                child.wait()
    return child.returncode


class Relay:
    """Tells a `Progress` here what `Reporter` wrote of another process's.

    Args:
        lines: The file that it writes, at the place to read from.
        progress: Who is told.
        bars: What closes a bar that is open at the end.
    """

    def __init__(self, lines: BinaryIO, progress: Progress, bars: ExitStack) -> None:
        self._lines, self._progress, self._bars = lines, progress, bars
        self._half = b""
        self._task: Task | None = None

    def pass_on(self) -> None:
        """What has come since the last time."""
        *whole, self._half = (self._half + self._lines.read()).split(b"\n")
        for line in whole:
            row = json.loads(line)
            if "say" in row:
                self._progress.say(row["say"])
            elif "task" in row:
                self._task = self._bars.enter_context(self._progress.task(*row["task"]))
            elif "advance" in row and self._task is not None:
                self._task.advance(*row["advance"])
            elif "close" in row:
                self._bars.close()


class Reporter:
    """A `Progress` that writes down what it is told, for `Relay`."""

    def __init__(self, writer: JsonlWriter) -> None:
        self._writer = writer

    @contextmanager
    def task(self, name: str, total: int, done: int = 0) -> Iterator[Task]:
        self._writer.write({"task": [name, total, done]})
        try:
            yield self
        finally:
            self._writer.write({"close": name})

    def advance(self, rows: int = 1, tokens: int = 0) -> None:
        self._writer.write({"advance": [rows, tokens]})

    def had(self, rows: int) -> None:
        raise NotImplementedError("training has no rows that came before it but those its bar begins with")

    def say(self, sentence: str) -> None:
        self._writer.write({"say": sentence})

    def watch(self, line: Callable[[], str]) -> None:
        pass


def _ends(reports: Path) -> dict[str, Any]:
    """How processes ended, with what they said of it: the first of each kind."""
    rows = [row for report in reports.glob("*.jsonl") for row in read_jsonl(report) if "end" in row]
    return {row["end"]: row["value"] for row in sorted(rows, key=lambda row: -row["time"])}
