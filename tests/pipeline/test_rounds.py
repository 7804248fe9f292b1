"""Rounds without a model: the loop, its folders, its rules, and how it goes on; and two real rounds, one of them killed."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from rlaif_dpo.cli import main
from rlaif_dpo.errors import UserError
from rlaif_dpo.files import read_json, read_jsonl, write_json, write_text
from rlaif_dpo.pipeline import Run, rounds, run, run_rounds, status
from rlaif_dpo.pipeline.directory import open_run
from rlaif_dpo.pipeline.policy import policy_adapter
from rlaif_dpo.pipeline.pool import ModelPool
from rlaif_dpo.progress import Silent
from rlaif_dpo.recipe import Recipe, load_recipe
from rlaif_dpo.recipe.training import Sft
from tests.children import finish, kill_once, start
from tests.pipeline.conftest import World
from tests.pipeline.whole import timeless

FIRST = ["10-revise", "20-sft", "25-audit", "30-pairs", "40-dpo", "50-evaluate"]
LATER = ["05-start", *FIRST]
PAIRS = ["20-sft", "25-audit", "30-pairs", "40-dpo", "50-evaluate"]

Rounds = Callable[..., dict[str, Any]]


@pytest.fixture
def loop(world: World, monkeypatch: pytest.MonkeyPatch) -> Rounds:
    """Runs rounds in `world`, each of the quality that `qualities` names, with prompts enough for four of them."""
    lines = "".join(f'{{"prompt": "Question {n} about {n * n}, if you please?"}}\n' for n in range(100))
    (world.folder / "prompts.jsonl").write_text(lines)

    def call(*overrides: str, qualities: Sequence[float] = (0.5, 0.6, 0.7, 0.8), **options: Any) -> dict[str, Any]:
        def measure(recipe: Recipe, runs: Sequence[Path], progress: object) -> dict[str, Any]:
            quality = {"value": qualities[len(runs) - 1], "low": None, "high": None, "n": 10}
            return {
                "round": len(runs), "path": runs[-1].name, "measure": "scripted", "quality": quality, "change": None,
                "self_score": None, "self_change": None, "truth": None, "judge_accuracy": None, "preferences": 5,
                "mean_p": None, "distinct_2": 0.5, "distinct_2_at_first": 0.5, "words": 9.0, "health": "healthy", "seconds": 1.0,
            }  # fmt: skip

        monkeypatch.setattr(rounds, "measure_round", measure)
        world.worked.clear()
        return run_rounds(world.recipe("rounds=2", *overrides), world.folder / "runs", **options)

    return call


def prompts(world: World, number: int) -> dict[str, set[str]]:
    rows = list(read_jsonl(world.path / f"round-{number}" / "prompts.jsonl"))
    return {phase: {row["id"] for row in rows if row["phase"] == phase} for phase in ("revise", "pairs", "evaluate")}


def test_each_round_is_a_run_that_begins_with_the_policy_of_the_one_before(world: World, loop: Rounds):
    found = loop()
    assert world.worked == [*FIRST, *LATER]
    assert (found["finished"], found["best"], found["stopped"], len(found["by_round"])) == (True, 2, None, 2)
    second = load_recipe(world.path / "round-2" / "recipe.yaml")
    assert (second.name, second.rounds, second.round) == ("round-2", 2, 2)
    assert second.start.adapter == str(world.path / "round-1" / "40-dpo" / "adapter")
    assert open_run(world.path).path == world.path / "round-2" == Run(world.path).path
    assert policy_adapter(open_run(world.path).path) == world.path / "round-2" / "40-dpo" / "adapter"
    assert [stage.stage for stage in status(world.path)][7:10] == ["round-2/00-prompts", "round-2/05-start", "round-2/10-revise"]
    assert {stage.state for stage in status(world.path)} == {"finished"}
    assert "2 of 2 rounds done; round 2 is kept." in (world.path / "report.html").read_text()


def test_rounds_share_their_held_out_prompts_and_no_other(world: World, loop: Rounds):
    loop("rounds=3")
    found = [prompts(world, number) for number in (1, 2, 3)]
    assert all(len(ids) == 10 for of_round in found for ids in of_round.values())
    assert found[0]["evaluate"] == found[1]["evaluate"] == found[2]["evaluate"]
    training = [ids for of_round in found for phase, ids in of_round.items() if phase != "evaluate"]
    assert len(set.union(*training, found[0]["evaluate"])) == 6 * 10 + 10


def test_one_more_round_leaves_the_others_as_they_are(world: World, loop: Rounds):
    loop()
    before = [prompts(world, number) for number in (1, 2)]
    assert loop("rounds=3")["best"] == 3
    assert world.worked == LATER
    assert [prompts(world, number) for number in (1, 2)] == before


def test_after_sft_in_the_first_round_alone_the_others_go_from_pairs_to_pairs(world: World, loop: Rounds):
    loop("iteration.sft=first")
    assert world.worked == [*FIRST, *PAIRS]
    assert prompts(world, 2)["revise"] == set() and len(prompts(world, 2)["pairs"]) == 10
    assert not (world.path / "round-2" / "10-revise").exists()


def test_later_rounds_may_reject_answers_of_the_first_model(world: World, loop: Rounds):
    loop("rounds=3", "iteration.sft=first", "iteration.anchor_rejected=true")
    assert world.worked == [*FIRST, "06-anchor", *PAIRS, "06-anchor", *PAIRS]
    starts = [load_recipe(world.path / f"round-{number}" / "recipe.yaml").start for number in (1, 2, 3)]
    assert [start.anchor for start in starts] == [None, *[str(world.path / "round-1" / "20-sft" / "adapter")] * 2]


def test_only_the_first_rounds_may_train_the_judge(world: World, loop: Rounds):
    judging = ("pairs.builders.judged=1", "pairs.builders.meta_judged=1", "judge.model=policy")
    loop("rounds=3", "iteration.judge_rounds=2", *judging)
    recipes = [load_recipe(world.path / f"round-{number}" / "recipe.yaml") for number in (1, 2, 3)]
    assert [list(recipe.pairs.builders.weights) for recipe in recipes] == [["judged", "meta_judged"]] * 2 + [["judged"]]
    loop("rounds=3", *judging)
    assert world.worked == LATER[-3:]  # the third round's pairs, and what follows from them


def test_the_adopted_adapter_is_a_copy_that_follows_its_original(world: World, loop: Rounds):
    """A change in round one redoes round two, what leaves its policy alone does not."""
    loop()
    assert loop("evaluate.temperature=0.5") == read_json(world.path / "rounds.json")
    assert world.worked == ["50-evaluate", "50-evaluate"]
    loop("dpo.beta=0.3", "evaluate.temperature=0.5")
    assert world.worked == ["40-dpo", "50-evaluate", *LATER]


def test_a_round_that_breaks_a_rule_ends_them_and_the_best_is_kept(world: World, loop: Rounds):
    found = loop("rounds=3", qualities=[0.8, 0.7, 0.9])
    assert world.worked == [*FIRST, *LATER]
    assert (found["best"], found["stopped"]["round"], found["stopped"]["rule"]) == (1, 2, "quality")
    assert open_run(world.path).path.name == "round-1"
    assert loop("rounds=3", "iteration.min_quality=0.5", qualities=[0.8, 0.7, 0.9])["best"] == 3
    assert world.worked == LATER


def test_a_judge_that_fails_its_audit_in_a_later_round_ends_them(world: World, loop: Rounds):
    def refuse(row: str) -> None:
        if row == "30-pairs/0" and world.worked.count("30-pairs") == 2:
            write_json(world.path / "round-2" / "25-audit" / "audit.json", {"gate": {"may_label": False}})
            raise UserError("The judge may not label.")

    world.before_row = refuse
    found = loop("rounds=3")
    assert found["stopped"] == {"round": 2, "rule": "judge", "sentence": "The judge may not label."}
    assert (found["best"], found["finished"], len(found["by_round"])) == (1, True, 1)


def test_other_errors_in_a_later_round_are_errors(world: World, loop: Rounds):
    def fail(row: str) -> None:
        if row == "20-sft/0" and world.worked.count("20-sft") == 2:
            raise UserError("No row can be trained on.")

    world.before_row = fail
    with pytest.raises(UserError, match="No row"):
        loop()
    assert read_json(world.path / "rounds.json")["best"] == 1  # what is finished is kept


def test_killed_in_the_middle_of_round_two_it_goes_on_there(world: World, loop: Rounds):
    class Killed(BaseException):
        pass

    def kill(row: str) -> None:
        if row == "30-pairs/3" and world.worked.count("30-pairs") == 2:
            raise Killed

    world.before_row = kill
    with pytest.raises(Killed):
        loop()
    assert open_run(world.path).path.name == "round-1"
    assert [stage.state for stage in status(world.path)][7:13] == ["finished"] * 5 + ["half"]
    world.before_row = lambda row: None
    made = len(world.rows)
    assert loop()["best"] == 2
    assert world.worked == ["30-pairs", "40-dpo", "50-evaluate"]
    assert world.rows[made:][:2] == ["30-pairs/3", "30-pairs/4"]


def test_until_and_from_name_the_round(world: World, loop: Rounds):
    assert loop(until="round-1/20-sft")["best"] is None
    assert world.worked == ["10-revise", "20-sft"]
    with pytest.raises(UserError, match="no round is finished yet; go on with `rlaif-dpo run .*tiny/recipe.yaml`"):
        open_run(world.path)
    found = loop(until="round-1")
    assert world.worked == ["25-audit", "30-pairs", "40-dpo", "50-evaluate"] and (found["best"], found["finished"]) == (1, False)
    loop()
    loop(from_stage="round-2/40-dpo")
    assert world.worked == ["40-dpo", "50-evaluate"]
    loop(from_stage="round-1/50-evaluate")
    assert world.worked == ["50-evaluate", *LATER]
    for where in ("40-dpo", "round-3", "round-0/40-dpo", "2"):
        with pytest.raises(UserError, match=f"--until {where}: of several rounds, name one from round-1 to round-2, or a stage"):
            loop(until=where)
    with pytest.raises(UserError, match="swap them"):
        loop(from_stage="round-2", until="round-1")


def test_one_run_and_rounds_do_not_share_a_folder(world: World, loop: Rounds):
    world.run()
    with pytest.raises(UserError, match="holds one run, and these are rounds"):
        loop()
    loop("name=other")
    with pytest.raises(UserError, match="holds rounds, and this is one run"):
        world.run("name=other")


def test_run_returns_the_round_that_is_kept(world: World, loop: Rounds):
    loop(qualities=[0.8, 0.8])
    assert run(world.recipe("rounds=2"), world.folder / "runs").path == world.path / "round-1"
    assert run(world.recipe("name=alone"), world.folder / "runs").path == world.folder / "runs" / "alone"


def test_rounds_share_the_store_of_runs(world: World, loop: Rounds):
    from rlaif_dpo.pipeline.directory import store_of

    loop()
    assert store_of(world.path / "round-2") == store_of(world.folder / "runs" / "alone") == world.folder / "runs/judgments.sqlite"


def test_status_and_report_on_the_command_line(world: World, loop: Rounds, capsys: pytest.CaptureFixture[str]):
    loop(qualities=[0.5, 0.61])
    for words in (["status", str(world.path)], ["status", str(world.path), "--json"]):
        with pytest.raises(SystemExit, match="0"):
            main(words)
        printed = capsys.readouterr().out
        assert "round-2/40-dpo" in printed
        assert max(map(len, printed.splitlines())) <= 80
        if "--json" not in words:
            assert "quality           50.0%    61.0%" in printed and "round 2 is kept." in printed


def test_a_single_run_may_begin_with_an_adapter(world: World):
    adapter = world.folder / "mine"
    write_json(adapter / "adapter_config.json", {})
    write_text(adapter / "adapter_model.safetensors", "weights")
    world.run(f"start.adapter={adapter}")
    assert world.worked == LATER
    assert world.redone(f"start.adapter={adapter}", "start.revise=false") == PAIRS
    moved = adapter.rename(world.folder / "moved")
    assert world.redone(f"start.adapter={moved}", "start.revise=false") == []  # what it is counts, not where
    write_text(moved / "adapter_model.safetensors", "other weights")
    assert world.redone(f"start.adapter={moved}", "start.revise=false") == PAIRS


def test_the_audit_of_a_policy_that_judges_follows_the_policy(world: World):
    """With gold nothing else of it does: see the test of that in test_runner."""
    (world.folder / "gold.jsonl").write_text('{"prompt": "q", "a": "x", "b": "y", "label": "a"}\n')
    itself = (f"judge.gold={world.folder / 'gold.jsonl'}", "judge.model=policy")
    world.run(*itself)
    assert world.redone(*itself, "sft.lr=1e-5") == PAIRS


def test_without_a_run_there_is_no_policy(world: World):
    with pytest.raises(UserError, match="`policy` is the SFT model of a run, and there is no run here"):
        ModelPool(world.recipe(), Silent()).guests()("policy")


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["start.revise=false"], "start.revise: a run without critique, revision and SFT needs an `adapter`"),
        (["start.adapter=nowhere"], "There is no adapter in nowhere"),
        (["round=2"], "round: 2 is more than the 1 `rounds`"),
        (["rounds=2", "iteration.judge=policy"], "would let each policy decide about itself"),
        (["rounds=2", "sft.loss=constrained"], "holds answers near the model without an adapter"),
        (["rounds=0"], "rounds: expected a whole number from 1 to 5"),
    ],
)
def test_recipes_that_cannot_be_rounds(world: World, overrides: list[str], said: str):
    with pytest.raises(UserError, match=said):
        world.run(*overrides)


def test_constrained_sft_may_come_before_rounds_of_pairs(world: World):
    assert world.recipe("rounds=2", "sft.loss=constrained", "iteration.sft=first").sft == Sft(loss="constrained")


TINY = [
    "rounds=2", "prompts.revise=8", "prompts.pairs=8", "prompts.evaluate=4", "revise.rounds=2", "sft.epochs=1",
    "sft.batch_size=4", "dpo.epochs=1", "dpo.batch_size=4", "pairs.candidates=2", "pairs.per_prompt=1",
    "judge.model=policy", "judge.audit_pairs=12",
    "evaluate.bootstrap=50", "iteration.min_quality=0", "iteration.min_distinct=0", "iteration.judge=same",
    "iteration.anchor_rejected=true",
    "judge.accept=[accuracy, same, padded, reordered, empty, injected, position, length, own, layout, mass, verdicts, stability]",
]  # fmt: skip
DATA = (
    "prompts",
    "10-revise/drafts",
    "20-sft/metrics",
    "30-pairs/candidates",
    "30-pairs/judgments",
    "40-dpo/metrics",
    "50-evaluate/answers",
)


def _two_rounds(root: str) -> None:
    run_rounds(load_recipe("quickstart", TINY), root)


@pytest.mark.slow
def test_two_real_rounds_judged_by_the_policy_and_killed_in_the_second(tmp_path: Path):
    """Killed while the second round judges its pairs, and resumed: the rows of an uninterrupted one, and its numbers."""
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    finish(start(_two_rounds, str(whole)))
    seen = killed / "quickstart" / "round-2" / "30-pairs" / "judgments.jsonl"
    kill_once(start(_two_rounds, str(killed)), lambda: seen.exists() and seen.stat().st_size > 0)
    assert not (killed / "quickstart" / "round-2" / "40-dpo" / "adapter").exists()
    finish(start(_two_rounds, str(killed)))
    for number in (1, 2):
        for name in DATA:
            one, other = (root / "quickstart" / f"round-{number}" / f"{name}.jsonl" for root in (whole, killed))
            assert timeless(one) == timeless(other), (number, name)
    found, again = (read_json(root / "quickstart" / "rounds.json") for root in (whole, killed))
    for row in (*found["by_round"], *again["by_round"]):
        del row["seconds"]
    assert found == again

    second = whole / "quickstart" / "round-2"
    engines = {row["engine"] for row in read_jsonl(second / "10-revise" / "drafts.jsonl")}
    assert engines == {"sandbox+05-start"}  # the policy of round one writes the drafts
    assert {row["judge"] for row in read_jsonl(second / "30-pairs" / "judgments.jsonl")} == {"sandbox+20-sft"}
    preferences = list(read_jsonl(second / "30-pairs" / "preferences.jsonl"))
    assert {(row["policy"], row["anchor"]) for row in preferences} == {("sandbox+20-sft", "sandbox+06-anchor")}
    config = [
        json.loads((second / stage / "adapter" / "adapter_config.json").read_text())["r"] for stage in ("05-start", "40-dpo")
    ]
    assert config == [16, 16]
    first, last = found["by_round"]
    assert first["measure"] == "wins over the base by sandbox" and first["quality"]["n"] > 0
    assert last["change"]["n"] > 0 and last["self_change"] is not None and last["judge_accuracy"]["n"] > 0
    assert (whole / "quickstart" / "report.html").exists() and (second / "report.html").exists()
