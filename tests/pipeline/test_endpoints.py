"""The method with a critic and a judge behind a server: the same labels as here, bought once."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from rlaif_dpo.files import read_jsonl
from rlaif_dpo.pipeline import Run, plan, run
from rlaif_dpo.recipe import Recipe, load_recipe
from tests.fault_server import FaultServer
from tests.model_server import model_reply
from tests.pipeline.whole import taught_as

pytestmark = pytest.mark.slow

SMALL = (
    "prompts.revise=12", "prompts.pairs=12", "prompts.evaluate=1", "revise.rounds=2", "pairs.candidates=3", "pairs.per_prompt=2",
    "sft.epochs=1", "judge.principles=2", "judge.audit_pairs=48",
)  # fmt: skip
PRICE = "price: {input: 1.0, output: 2.0}"


@pytest.fixture(scope="module")
def server() -> Iterator[FaultServer]:
    with FaultServer(model_reply()) as server:
        yield server


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("endpoints")


def recipe(folder: Path, server: FaultServer, name: str, *overrides: str) -> Recipe:
    path = folder / f"{name}.yaml"
    text = f"name: {name}\nendpoints:\n  desk: {{base_url: {server.url}, model: sandbox, concurrency: 4, {PRICE}}}\n"
    path.write_text(text, encoding="utf-8")
    quick = load_recipe("quickstart", SMALL).model_copy(update={"name": name, "endpoints": load_recipe(path).endpoints})
    path.write_text(json.dumps(quick.model_dump(mode="json")), encoding="utf-8")
    return load_recipe(path, overrides)


@pytest.fixture(scope="module")
def here(folder: Path, server: FaultServer) -> Run:
    return run(recipe(folder, server, "here"), root=folder / "runs", until="pairs")


def rows(found: Run, name: str) -> list[dict]:
    return list(read_jsonl(found.path / name))


def test_a_judge_behind_a_server_gives_the_labels_of_the_local_one(here: Run, folder: Path, server: FaultServer) -> None:
    """Same weights, same candidates: p differs by rounding, and by the bound that stands for an option not listed."""
    taught_as(here, "there")
    there = run(recipe(folder, server, "there", "judge.model=desk"), root=folder / "runs", until="pairs")
    assert rows(there, "30-pairs/candidates.jsonl") == rows(here, "30-pairs/candidates.jsonl")
    local = {row["id"]: row["p"] for row in rows(here, "30-pairs/judgments.jsonl")}
    bought = {row["id"]: row["p"] for row in rows(there, "30-pairs/judgments.jsonl")}
    assert local.keys() == bought.keys() and len(local) > 20
    assert [id for id, p in bought.items() if p is None or abs(p - local[id]) > 0.01] == []
    assert {row["source"] for row in rows(there, "30-pairs/judgments.jsonl")} == {"logprob"}
    found, local = there.evidence(), here.evidence()
    accuracy = [of["audit"]["agreement"]["accuracy"]["value"] for of in (found, local)]
    assert found["audit"]["gate"]["may_label"] and accuracy[0] == pytest.approx(accuracy[1], abs=0.05)
    assert found["audit"]["stability"]["same_verdict"]["n"] == 4 and found["audit"]["stability"]["same_verdict"]["value"] == 1.0
    assert local["audit"]["stability"]["same_verdict"]["n"] == 0, "a judge in this process always says the same"
    assert found["cost"]["per_preference"]["usd"] > 0 and local["cost"]["per_preference"] is None


def test_a_critic_behind_a_server(folder: Path, server: FaultServer) -> None:
    """It finds faults and mends them; another run of the same recipe under another name buys nothing of it again."""
    asked = len(server.asks)
    found = run(recipe(folder, server, "critic", "revise.critic=desk"), root=folder / "runs", until="revise")
    bought = len(server.asks) - asked
    assert {row["critic"] for row in rows(found, "10-revise/sft.jsonl")} == {"desk"}
    assert sum(row["text"] != "" for row in rows(found, "10-revise/revisions.jsonl")) > 5
    again = run(recipe(folder, server, "critic-again", "revise.critic=desk"), root=folder / "runs", until="revise")
    assert rows(again, "10-revise/sft.jsonl") == rows(found, "10-revise/sft.jsonl")
    assert len(server.asks) - asked == bought > 12


def test_a_drafter_behind_a_server(folder: Path, server: FaultServer) -> None:
    found = run(recipe(folder, server, "drafter", "revise.drafter=desk"), root=folder / "runs", until="revise")
    assert {row["engine"] for row in rows(found, "10-revise/drafts.jsonl")} == {"desk"}


def test_a_stage_is_redone_when_its_server_changes_and_not_when_its_price_does(folder: Path, server: FaultServer) -> None:
    here = recipe(folder, server, "critic", "revise.critic=desk")
    asked = len(server.asks)
    run(recipe(folder, server, "critic", "revise.critic=desk", "endpoints.desk.price.input=9"), folder / "runs", until="revise")
    assert len(server.asks) == asked
    with FaultServer(model_reply()) as other:
        moved = here.endpoints["desk"].model_copy(update={"base_url": other.url})
        run(here.model_copy(update={"endpoints": {"desk": moved}}), root=folder / "runs", until="revise")
        assert len(other.asks) > 12


def test_the_plan_counts_what_the_server_is_asked(folder: Path) -> None:
    """12 prompts, 2 rounds: 24 critiques and 24 revisions, exactly.

    What is judged is at most what was planned, 2 requests for each pair and principle but for equal ones, which are bought once.
    """
    with FaultServer(model_reply()) as server:
        asked = recipe(folder, server, "counted", "revise.critic=desk", "judge.model=desk")
        (bill,) = plan(asked, root=folder / "counted").cost.bills
        planned = {(work.stage, work.what): work.requests for work in plan(asked).cost.works if work.model == "desk"}
        found = run(asked, root=folder / "counted", until="pairs")
        scored = [ask for ask in server.asks if ask.body.get("logprobs")]
        assert len(server.asks) - len(scored) == planned["10-revise", "critiques"] + planned["10-revise", "revisions"] == 48
        judged = sum(2 * len(row["verdicts"]) for row in rows(found, "30-pairs/judgments.jsonl"))
        audited = sum(
            2 * len(row["verdicts"]) for name in ("judgments", "repeats") for row in rows(found, f"25-audit/{name}.jsonl")
        )
        assert 0 < judged <= planned["30-pairs", "comparisons"] and 0 < audited <= planned["25-audit", "comparisons"]
        assert 0.9 * (judged + audited) < len(scored) - 1 <= judged + audited
        assert len(server.asks) < bill.requests[0] and not bill.exact
    spent = [row["cost_usd"] for row in rows(found, "30-pairs/judgments.jsonl")]
    assert bill.usd is not None and 0 < sum(spent) < bill.usd[0]
