"""Stages in several processes: what is refused, what comes back, how they end, and that the run is the same one."""

import os
import signal
import sys
import time
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from rlaif_dpo.errors import UserError
from rlaif_dpo.files import JsonlWriter, read_json, read_jsonl, write_json, write_jsonl
from rlaif_dpo.pipeline import launch as launching
from rlaif_dpo.pipeline import runner
from rlaif_dpo.pipeline import spread as spreading
from rlaif_dpo.pipeline.directory import create
from rlaif_dpo.pipeline.gate import AUDIT
from rlaif_dpo.pipeline.launch import CONFIGS, Launch, launch_of
from rlaif_dpo.pipeline.pool import ModelPool
from rlaif_dpo.pipeline.spread import LOG, REPORT, Reporter, spread, supervise
from rlaif_dpo.pipeline.stage import PREFERENCES, REVISED, Context, Stage
from rlaif_dpo.pipeline.stages import stages_of
from rlaif_dpo.progress import Silent
from rlaif_dpo.recipe import Recipe, load_recipe
from tests.children import start
from tests.pipeline.conftest import World
from tests.tiny import tiny_model_folder
from tests.train.conftest import preference_rows, sft_rows
from tests.train.test_micro_batch import CLOSE, Heard, distance

TWO = Launch("ddp", 2)


@pytest.mark.parametrize(
    ("strategy", "processes", "overrides", "said"),
    [
        ("fsdp2", 2, [], "--accelerate fsdp2 (sharded weights) is not tested"),
        ("deepspeed_zero2", 2, [], "--accelerate deepspeed_zero2 (a sharded optimiser) is not tested"),
        ("fsdp", 2, [], 'there is no such strategy. Did you mean "fsdp2"'),
        ("ddp", 2, ["optimizer=ppo"], "not with optimizer: ppo"),
        ("ddp", 2, ["optimizer=grpo"], "not with optimizer: grpo"),
        ("ddp", 2, ["sft.loss=constrained"], "sft.loss: constrained"),
        ("ddp", 3, ["sft.batch_size=12"], "dpo.batch_size 16 cannot be shared by 3 processes; set dpo.batch_size=15"),
        ("ddp", 2, ["sft.batch_size=1"], "sft.batch_size 1 cannot be shared by 2 processes; set sft.batch_size=2"),
        ("ddp", 1, [], "two processes or more, and --processes 1"),
        ("ddp", None, [], "finds no GPU; name the number of processes to train on the CPU: --processes 2"),
    ],
)
def test_what_is_not_tested_is_refused_by_name(
    strategy: str, processes: int | None, overrides: list[str], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    with pytest.raises(UserError, match=said.replace("(", r"\(").replace(")", r"\)")) as refused:
        launch_of(strategy, processes, load_recipe("quickstart", overrides))
    assert "\n" not in str(refused.value)


def test_processes_are_as_many_as_gpus_unless_fewer_are_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = load_recipe("quickstart")
    monkeypatch.setattr("torch.cuda.device_count", lambda: 4)
    assert launch_of("ddp", None, recipe) == Launch("ddp", 4)
    assert launch_of("ddp", 2, recipe) == TWO and TWO.config.is_file()
    with pytest.raises(UserError, match="8 processes|--processes 8: 4 GPUs are visible"):
        launch_of("ddp", 8, recipe)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    with pytest.raises(UserError, match="one GPU is visible"):
        launch_of("ddp", None, recipe)
    assert sorted(path.stem for path in CONFIGS.glob("*.yaml")) == ["ddp"] and not set(launching.UNTESTED) & {"ddp"}


class Bars(Heard):
    """Hears of bars, too."""

    def __init__(self) -> None:
        super().__init__()
        self.bars: list[Any] = []

    @contextmanager
    def task(self, name: str, total: int, done: int = 0):  # type: ignore[no-untyped-def]
        self.bars.append((name, total, done))
        yield self
        self.bars.append("closed")

    def advance(self, rows: int = 1, tokens: int = 0) -> None:
        self.bars.append((rows, tokens))


def test_what_the_main_process_tells_is_told_here(tmp_path: Path) -> None:
    """A child writes half a line, too: it is told when it is whole."""
    code = (
        "import sys, time\nfrom pathlib import Path\nfrom rlaif_dpo.files import JsonlWriter\n"
        "from rlaif_dpo.pipeline.spread import Reporter\n"
        "path = Path(sys.argv[1]) / '0.jsonl'\nwriter = JsonlWriter(path)\nprogress = Reporter(writer)\n"
        "with progress.task('SFT', 10, 2) as task:\n    task.advance(3, 40)\n    progress.say('half')\n    task.advance(5, 60)\n"
        "file = path.open('ab')\nfile.write(b'{\"say\": \"who')\nfile.flush()\ntime.sleep(0.3)\nfile.write(b'le\"}\\n')\n"
    )
    heard = Bars()
    assert supervise([sys.executable, "-c", code, str(tmp_path)], tmp_path / LOG, tmp_path, heard) == 0
    assert heard.bars == [("SFT", 10, 2), (3, 40), (5, 60), "closed"]
    assert heard.said == ["half", "whole"]


def test_no_process_is_left_when_this_one_is_interrupted(tmp_path: Path) -> None:
    """The child has one of its own, in another session, as a launcher has; both see that standard input ends."""
    grandchild = "import os; os.read(0, 1)"
    code = (
        f"import os, subprocess, sys\nchild = subprocess.Popen([sys.executable, '-c', {grandchild!r}], start_new_session=True)\n"
        "open(sys.argv[1] + '/pids', 'w').write(f'{os.getpid()} {child.pid}\\n')\nos.read(0, 1)\nsys.exit(child.wait())\n"
    )

    class Interrupts(Silent):
        def say(self, sentence: str) -> None:
            raise KeyboardInterrupt

    with JsonlWriter(tmp_path / REPORT.format(rank=0)) as writer:
        Reporter(writer).say("now")

    class Later(Interrupts):
        """Not before the children are there."""

        def say(self, sentence: str) -> None:
            until(lambda: (tmp_path / "pids").exists() and (tmp_path / "pids").read_text().endswith("\n"))
            super().say(sentence)

    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        supervise([sys.executable, "-c", code, str(tmp_path)], tmp_path / LOG, tmp_path, Later())
    assert time.monotonic() - began < 15
    pids = [int(pid) for pid in (tmp_path / "pids").read_text().split()]
    until(lambda: not any(alive(pid) for pid in pids))


def test_a_process_that_does_not_stop_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spreading, "GRACE_S", 0.5)

    class Interrupts(Silent):
        def say(self, sentence: str) -> None:
            raise KeyboardInterrupt

    code = (
        "import os, sys, time\nopen(sys.argv[1] + '/0.jsonl', 'a').write('{\"say\": \"%d\"}\\n' % os.getpid())\ntime.sleep(600)"
    )
    with pytest.raises(KeyboardInterrupt):
        supervise([sys.executable, "-c", code, str(tmp_path)], tmp_path / LOG, tmp_path, Interrupts())
    (row,) = read_jsonl(tmp_path / "0.jsonl")
    until(lambda: not alive(int(row["say"])))


def scripted_context(world: World, progress: Any = None) -> tuple[Stage, Context]:
    """40-dpo of a run, and what it works with."""
    recipe = world.recipe()
    directory = create(world.path)
    directory.folder("40-dpo").mkdir()
    pool = ModelPool(recipe, Silent())
    (stage,) = (stage for stage in stages_of(recipe) if stage.name == "40-dpo")
    return stage, Context(recipe, None, directory, pool, progress or Silent(), TWO)  # type: ignore[arg-type]


def ends(monkeypatch: pytest.MonkeyPatch, *sessions: tuple[int, dict[int, tuple[str, Any]]]) -> list[list[str]]:
    """Each `supervise` in turn ends with an exit code and what the ranks report, in that order; gives the commands."""
    left, commands = list(sessions), list[list[str]]()

    def supervised(command: list[str], log: Path, reports: Path, progress: Any) -> int:
        commands.append(list(command))
        code, said = left.pop(0)
        for place, (rank, (kind, value)) in enumerate(said.items()):
            with JsonlWriter(reports / REPORT.format(rank=rank)) as writer:
                writer.write({"end": kind, "value": value, "time": float(place)})
        return code

    monkeypatch.setattr(spreading, "supervise", supervised)
    return commands


def test_the_counts_of_the_main_process_come_back(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    stage, context = scripted_context(world)
    (command,) = [ends(monkeypatch, (0, {0: ("done", {"kept": 3})}))]
    assert spread(stage, context) == {"kept": 3}
    words = command[0]
    assert words[words.index("--num_processes") + 1] == "2" and words[-3:-1] == [str(world.path), "40-dpo"]
    (event,) = read_jsonl(world.path / "events.jsonl")
    assert (event["event"], event["stage"], event["strategy"], event["processes"]) == ("spread", "40-dpo", "ddp", 2)


def test_one_out_of_memory_begins_all_again(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    heard = Heard()
    stage, context = scripted_context(world, heard)
    found = {"key": "k", "micro_batch_size": 4, "accumulation": 2, "because": "the memory ran out with 8"}
    lost = ("failed", "RuntimeError: Connection closed by peer")
    commands = ends(monkeypatch, (1, {1: ("restart", found), 0: lost}), (0, {0: ("done", {"kept": 3})}))
    assert spread(stage, context) == {"kept": 3} and len(commands) == 2
    assert read_json(world.path / "40-dpo" / "micro_batch.json") == found
    assert heard.said == ["40-dpo, each of 2 processes: 4 of 16 rows at once from here on: the memory ran out with 8."]
    event = list(read_jsonl(world.path / "events.jsonl"))[-1]
    assert (event["event"], event["micro_batch_size"], event["accumulation"]) == ("micro-batch", 4, 2)


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ({0: ("refused", "There is no adapter."), 1: ("refused", "There is no adapter.")}, "There is no adapter."),
        (
            {1: ("failed", "ValueError: the cause"), 0: ("failed", "RuntimeError: Connection closed by peer")},
            "40-dpo: one of 2 processes failed: ValueError: the cause; its log is {log}",
        ),
        ({}, "40-dpo: one of 2 processes failed: it ended with code 1; its log is {log}"),
    ],
)
def test_a_failing_process_gives_one_line(
    said: dict[int, tuple[str, Any]], expected: str, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage, context = scripted_context(world)
    ends(monkeypatch, (1, said))
    with pytest.raises(UserError) as failed:
        spread(stage, context)
    assert str(failed.value) == expected.format(log=world.path / "40-dpo" / LOG)


def test_a_process_killed_after_the_result_was_told_is_no_success(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    stage, context = scripted_context(world)
    ends(monkeypatch, (1, {0: ("done", {"kept": 3})}))
    with pytest.raises(UserError, match="it ended with code 1"):
        spread(stage, context)


def until(true: Callable[[], bool], seconds: float = 30.0) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.05)


def alive(pid: int) -> bool:
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


RECIPE = (
    "name: tiny\nconstitution: constitution.yaml\nmodel:\n  path: {model}\n"
    "prompts:\n  source: prompts.jsonl\n  revise: 10\n  pairs: 10\n  evaluate: 10\n"
    "lora:\n  r: 4\n  alpha: 8\n"
    "sft:\n  batch_size: 4\n  lr: 1e-3\n  epochs: 15\n  save_steps: 5\n"
    "dpo:\n  batch_size: 8\n  micro_batch_size: 2\n  lr: 1e-3\n"
)


def only_training(recipe: Recipe) -> tuple[Stage, ...]:
    """The stages of `recipe`; those before and between SFT and DPO only write the rows that these learn from."""

    def made(name: str, rows: list[dict[str, Any]]) -> Callable[[Context], dict[str, int]]:
        def perform(context: Context) -> dict[str, int]:
            write_jsonl(context.directory.path / name, rows)
            return {"rows": len(rows)}

        return perform

    work = {"10-revise": made(REVISED, sft_rows(13)), "30-pairs": made(PREFERENCES, preference_rows(30))}
    work["25-audit"] = unaudited
    return tuple(replace(stage, perform=work.get(stage.name, stage.perform)) for stage in stages_of(recipe))


def unaudited(context: Context) -> dict[str, int]:
    write_json(context.directory.path / AUDIT, None)
    return {}


def run_training(folder: str, root: str, until: str, launch: Launch | None) -> None:
    runner.stages_of = only_training  # type: ignore[assignment]
    runner.run(load_recipe(Path(folder) / "recipe.yaml"), root=Path(folder) / root, until=until, launch=launch)


@pytest.mark.slow
def test_a_killed_run_leaves_no_process_and_goes_on_alone(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """SFT (15 passes of 4 steps) in two processes; `kill -9` after 10 steps; one process goes on, and two do DPO.

    The weights of both stages are those of a run in one process; finished stages are skipped whatever the number of processes.
    """
    monkeypatch.setattr(runner, "stages_of", only_training)
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    (world.folder / "recipe.yaml").write_text(RECIPE.format(model=world.folder / "model"))
    for file in (world.folder / "model").iterdir():
        file.unlink()
    tiny_model_folder(world.folder, "model", weight_scale=0.1)
    run, alone = world.folder / "runs" / "tiny", world.folder / "alone" / "tiny"
    child = start(run_training, str(world.folder), "runs", "20-sft", TWO)
    curve = run / "20-sft" / "metrics.jsonl"
    until(lambda: not child.is_alive() or sum(1 for _ in read_jsonl(curve)) >= 10, 120)
    assert child.is_alive(), (run / "20-sft" / LOG).read_text()[-3000:]
    ranks = [p.pid for p in psutil.process_iter(["cmdline"]) if str(run) in (p.info["cmdline"] or ())]
    assert len(ranks) == 3  # the launcher and two processes
    assert child.pid is not None
    os.kill(child.pid, signal.SIGKILL)
    child.join()
    until(lambda: not any(alive(pid) for pid in ranks))
    done = sum(1 for _ in read_jsonl(curve))
    assert 10 <= done < 60
    run_training(str(world.folder), "runs", "20-sft", None)
    run_training(str(world.folder), "runs", "40-dpo", TWO)
    run_training(str(world.folder), "alone", "40-dpo", None)
    run_training(str(world.folder), "runs", "40-dpo", None)
    events = [(row["event"], row["stage"]) for row in read_jsonl(run / "events.jsonl")]
    assert ("resumed", "20-sft") in events and ("spread", "40-dpo") in events
    assert events[-1] == ("skipped", "40-dpo"), "what two processes made is what one would have made, by its key"
    assert [row["step"] for row in read_jsonl(curve)] == list(range(1, 61))
    for stage in ("20-sft", "40-dpo"):
        assert distance(run / stage, alone / stage) < CLOSE, stage
        ours, one = (read_json(path / stage / "stage.json") for path in (run, alone))
        assert ours["counts"] == one["counts"]
        # DPO's key hangs on the bits of the SFT adapter, which differ by rounding.
        assert (ours["key"] == one["key"]) or stage == "40-dpo"
    assert not list(run.rglob("checkpoints"))
