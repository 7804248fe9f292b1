"""Rules as the labeler and as a veto, through the whole method, held against the sandbox's ground truth."""

from pathlib import Path
from typing import Any

import pytest

from rlaif_dpo.files import Row, read_jsonl, write_jsonl
from rlaif_dpo.pipeline import Run, run
from rlaif_dpo.recipe import load_recipe
from rlaif_dpo.sandbox import world
from rlaif_dpo.sandbox.truth import check
from tests.pipeline.whole import taught_as

pytestmark = pytest.mark.slow

SMALL = (
    "prompts.revise=12", "prompts.pairs=24", "prompts.evaluate=4", "revise.rounds=1", "pairs.candidates=4", "pairs.per_prompt=2",
    "sft.epochs=1", "dpo.epochs=1", "evaluate.bootstrap=50", "judge.audit_pairs=24",
)  # fmt: skip
DANGEROUS = [prompt for prompt in world.prompts(400, 11) if prompt.facts["kind"] == "dangerous"][:40]
FACTS = {repr(list(prompt.messages)): prompt.facts for prompt in DANGEROUS}
LADDER = ("complied", "bare", "explained")
FEWEST = 10
"""Pairs whose answers the truth tells apart: of ten right by chance all ten with P = .001."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A user's prompts: dangerous requests with their tag, and no facts."""
    made = tmp_path_factory.mktemp("rules")
    write_jsonl(made / "prompts.jsonl", ({"prompt": list(p.messages), "tags": "dangerous"} for p in DANGEROUS))
    return made


def done(folder: Path, name: str, *overrides: str, like: Run | None = None, **options: Any) -> Run:
    """A run; its drafts, revisions and SFT are those of `like`."""
    if like:
        taught_as(like, name)
    source = (f"name={name}", f"prompts.source={folder / 'prompts.jsonl'}", "prompts.tags_column=tags")
    return run(load_recipe("quickstart", [*SMALL, *source, *overrides]), root=folder / "runs", **options)


def rank(row: Row, side: str) -> int:
    """How the truth ranks an answer: helping is worst, a refusal with its reason is best."""
    found = check(FACTS[repr(row["prompt"])], row[side][0]["content"])
    assert found.dangerous is not None
    return LADDER.index(found.dangerous)


def right(found: Run) -> list[bool]:
    """Of each preference whose answers the truth tells apart: whether the chosen one is the better."""
    rows = list(read_jsonl(found.path / "30-pairs" / "preferences.jsonl"))
    ranks = [(rank(row, "chosen"), rank(row, "rejected")) for row in rows]
    return [chosen > rejected for chosen, rejected in ranks if chosen != rejected]


@pytest.fixture(scope="module")
def ruled(folder: Path) -> Run:
    return done(folder, "ruled", "judge.kind=rules", "judge.rulebook=refusals", "judge.rulebook_asks=false")


def test_rules_label_pairs_and_the_whole_method_goes_on_with_them(ruled: Run) -> None:
    """The patterns know every answer of the world (tests/judges/rules): all labels are right, where a coin has half of them."""
    labels = right(ruled)
    assert len(labels) >= FEWEST and all(labels)
    (judge,) = {row["judge"] for row in read_jsonl(ruled.path / "30-pairs" / "preferences.jsonl")}
    assert judge.startswith("rules:refusals:") and ruled.finished()
    results = ruled.evidence()["judge"]
    assert results["judge"] == judge and (ruled.path / "report.html").exists()


def test_a_veto_turns_the_labels_of_careless_people(folder: Path, ruled: Run) -> None:
    """People here prefer help at any price: they are wrong on every pair with compliance in it.

    The veto has those right again; the control, the same people without a veto, does not.
    """
    rows = list(read_jsonl(ruled.path / "30-pairs" / "preferences.jsonl"))
    careless = [
        {"prompt": row["prompt"], "a": row["chosen"][0]["content"], "b": row["rejected"][0]["content"],
         "label": "b" if rank(row, "rejected") == 0 else "a"}
        for row in rows
    ]  # fmt: skip
    write_jsonl(folder / "careless.jsonl", careless)
    people = ("judge.kind=human", f"judge.labels={folder / 'careless.jsonl'}")
    alone = done(folder, "careless", *people, like=ruled, until="pairs")
    vetoed = done(folder, "vetoed", *people, "judge.rulebook=refusals", "judge.rulebook_asks=false", like=ruled, until="pairs")
    assert sum(right(alone)) / len(right(alone)) < 0.5
    assert len(right(vetoed)) >= FEWEST and all(right(vetoed))
    turned = [row for row in read_jsonl(vetoed.path / "30-pairs" / "judgments.jsonl") if ", overruled by rules:" in row["judge"]]
    assert turned and all(len(row["members"]) == 2 for row in turned)


def test_a_veto_beside_a_model(folder: Path, ruled: Run) -> None:
    """The sandbox model judges well: its labels pass, and what is written is still right on nine of ten pairs at least."""
    found = done(folder, "beside", "judge.rulebook=refusals", "judge.rulebook_asks=false", like=ruled, until="pairs")
    labels = right(found)
    assert len(labels) >= FEWEST and sum(labels) / len(labels) >= 0.9
    assert "logprob" in {row["source"] for row in read_jsonl(found.path / "30-pairs" / "judgments.jsonl")}
