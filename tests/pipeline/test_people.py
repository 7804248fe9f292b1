"""People's labels through the method: labelled at the terminal, as the judge of another run, and mixed into its rows."""

import re
from collections import Counter
from pathlib import Path

import pytest

from rlaif_dpo.files import read_jsonl
from rlaif_dpo.pipeline import Run, run
from rlaif_dpo.recipe import load_recipe
from tests.cli.conftest import Cli, cli
from tests.pipeline.whole import taught_as

__all__ = ["cli"]
pytestmark = pytest.mark.slow

SMALL = (
    "prompts.revise=12", "prompts.pairs=12", "prompts.evaluate=4", "revise.rounds=2", "pairs.candidates=3", "pairs.per_prompt=2",
    "sft.epochs=1", "dpo.epochs=1", "evaluate.bootstrap=50", "judge.audit_pairs=24",
)  # fmt: skip


def done(root: Path, name: str, *overrides: str, until: str | None = None) -> Run:
    return run(load_recipe("quickstart", [*SMALL, f"name={name}", *overrides]), root=root, until=until)


def preferences(found: Run) -> list[dict]:
    return list(read_jsonl(found.path / "30-pairs" / "preferences.jsonl"))


def test_labels_of_a_finished_run_judge_and_mix(tmp_path: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    """A person labels eight pairs of a finished run, preferring the longer answer on the screen.

    A second run of the same seed, whose candidates are the same, takes those labels as its judge; a third mixes them into the
    model's rows at a quarter of them.
    """
    first = done(tmp_path, "first")
    assert first.finished() and len(preferences(first)) > 12
    labels, screen = label_by_length(cli, monkeypatch, first, count=8)
    assert "8 of 8" in screen and len(labels) == 8

    taught_as(first, "judged")
    judged = done(tmp_path, "judged", "judge.kind=human", f"judge.labels={first.path / 'labels.jsonl'}")
    rows = preferences(judged)
    assert 0 < len(rows) <= 8 and {(row["source"], row["judge"], row["p"]) for row in rows} == {("human", "human", 1.0)}
    assert all(len(row["chosen"][0]["content"]) > len(row["rejected"][0]["content"]) for row in rows)
    assert judged.finished() and (judged.path / "report.html").exists()

    taught_as(first, "mixed")
    mixed = done(
        tmp_path,
        "mixed",
        f"pairs.human.source={first.path / 'labels.jsonl'}",
        "pairs.builders.judged=1",
        "pairs.builders.human=0.25",
        "pairs.human.reliability=0.9",
    )
    rows = preferences(mixed)
    counts = Counter(row["source"] for row in rows)
    assert counts["human"] == counts["logprob"] // 4 >= 2, counts
    assert {(row["judge"], row["p"], row["file"]) for row in rows if row["source"] == "human"} == {
        ("human", 0.9, str(first.path / "labels.jsonl"))
    }
    assert len({row["id"] for row in rows}) == len(rows) and mixed.finished()
    funnel = mixed.evidence()["funnel"]["30-pairs"]
    assert funnel["in the mix (human)"] == counts["human"] and funnel["in the mix (judged)"] == counts["logprob"]


def label_by_length(cli: Cli, monkeypatch: pytest.MonkeyPatch, found: Run, count: int) -> tuple[list[dict], str]:
    """`rlaif-dpo label` with a person at the keys who reads the screen."""
    import io

    from rich.console import Console

    shown = io.StringIO()

    class Screen(Console):
        def __init__(self, **more: object) -> None:
            super().__init__(file=shown, width=80, highlight=False)

    def typed(prompt: str = "") -> str:
        one, other = re.split(r"\nReply 2\n", shown.getvalue().rsplit("\nReply 1\n", 1)[1])
        lengths = [len(" ".join(part.split())) for part in (one, other.rsplit("\n\nWhich reply", 1)[0])]
        return "1" if lengths[0] > lengths[1] else "2"

    monkeypatch.setattr("rich.console.Console", Screen)
    monkeypatch.setattr("builtins.input", typed)
    ended = cli("label", str(found.path), "--count", str(count))
    assert ended.code == 0, ended.err
    return list(read_jsonl(found.path / "labels.jsonl")), shown.getvalue()
