"""`kill -9` at random instants: a resumed run has the rows of an uninterrupted one, nothing twice, nothing lost."""

import json
import random
import time
from pathlib import Path

import pytest

from rlaif_dpo.files import read_jsonl
from rlaif_dpo.pipeline import run
from rlaif_dpo.pipeline.stages import stages_of
from rlaif_dpo.recipe import load_recipe
from tests.children import finish, start
from tests.pipeline.whole import timeless

pytestmark = pytest.mark.slow

KILLS, KILLS_OF_A_STAGE = 20, 4
START_UP_S = 1.0
OVERRIDES = [
    "prompts.revise=16", "prompts.pairs=8", "prompts.evaluate=5", "revise.rounds=2", "sft.epochs=1", "dpo.epochs=1",
    "sft.batch_size=4", "dpo.batch_size=4", "sft.save_steps=1", "dpo.save_steps=2", "model.max_batch_tokens=1024",
    "evaluate.bootstrap=50", "judge.audit_pairs=24",
]  # fmt: skip
DATA = (
    "prompts.jsonl", "10-revise/drafts.jsonl", "10-revise/critiques.jsonl", "10-revise/revisions.jsonl",
    "10-revise/rejected.jsonl", "10-revise/sft.jsonl", "20-sft/metrics.jsonl", "25-audit/judgments.jsonl",
    "30-pairs/candidates.jsonl", "30-pairs/judgments.jsonl", "30-pairs/preferences.jsonl", "30-pairs/dropped.jsonl",
    "40-dpo/metrics.jsonl", "50-evaluate/answers.jsonl", "50-evaluate/judgments.jsonl",
)  # fmt: skip


def _run(root: str) -> None:
    run(load_recipe("quickstart", OVERRIDES), root=root)


def _begun(run: Path) -> list[str]:
    """The stages that were started or taken up again, one for each time."""
    return [row["stage"] for row in read_jsonl(run / "events.jsonl") if row["event"] in ("started", "resumed")]


def _finished(run: Path) -> dict[str, float]:
    """The seconds of each stage that is finished."""
    return {row["stage"]: row.get("seconds", 0.0) for row in read_jsonl(run / "events.jsonl") if row["event"] == "finished"}


def _killed(root: Path, stage: str | None, delay: float) -> str | None:
    """The stage that a new process was killed in, `delay` seconds after it began `stage`, or (None) after it was started.

    None if it had begun no stage yet, or was done with all of them.
    """
    run = root / "quickstart"
    before = len(_begun(run))
    child = start(_run, str(root))
    while stage and child.is_alive() and stage not in _begun(run)[before:]:
        time.sleep(0.005)
    child.join(timeout=delay)
    if not child.is_alive():
        assert child.exitcode == 0
        return None
    child.kill()
    child.join()
    return next(reversed(_begun(run)[before:]), None)


def test_killed_at_twenty_instants_a_run_has_the_rows_of_an_uninterrupted_one(tmp_path: Path) -> None:
    """A run is killed at random instants of its start and of each stage, later and later ones, and taken up again each time.

    A kill counts where the process itself had begun the stage.
    """
    finish(start(_run, str(tmp_path / "whole")))
    whole = tmp_path / "whole" / "quickstart"
    seconds = _finished(whole)
    stages = [stage.name for stage in stages_of(load_recipe("quickstart"))[1:]]
    rng, kills, attempt = random.Random(0), list[str](), 0
    while len(kills) < KILLS or not set(stages) <= set(kills):
        root = tmp_path / f"killed-{attempt}"
        for _ in range(2):
            _killed(root, None, rng.uniform(0, START_UP_S))
        for stage in stages:
            for number in range(1, KILLS_OF_A_STAGE + 1):
                if stage not in _finished(root / "quickstart"):
                    hit = _killed(root, stage, rng.uniform(0, seconds[stage] * number / KILLS_OF_A_STAGE))
                    kills += [hit] if hit else []
        finish(start(_run, str(root)))
        for name in DATA:
            assert timeless(root / "quickstart" / name) == timeless(whole / name), (name, attempt)
        for name in ("25-audit/audit.json", "50-evaluate/results.json"):
            assert json.loads((root / "quickstart" / name).read_text()) == json.loads((whole / name).read_text()), (name, attempt)
        attempt += 1
    print(f"{len(kills)} kills in {attempt} run(s): {sorted(kills)}")
