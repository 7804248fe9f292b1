import json
from collections.abc import Callable
from math import log
from pathlib import Path

import pytest

from rlaif_dpo.files import Row, read_jsonl, write_jsonl
from rlaif_dpo.pipeline.stage import policies_of
from rlaif_dpo.pipeline.stages import OPTIMIZERS
from rlaif_dpo.report.evidence import FINAL_STAGE, evidence
from rlaif_dpo.report.story import story
from rlaif_dpo.report.write import write_report

LEAF = {"value", "low", "high", "n"}
TRUTH = ("adherence", "knowledge", "dangerous_complied", "dangerous_evaded", "dangerous_explained", "benign_refused")


def test_evidence_has_what_is_documented(run_dir: Path) -> None:
    found = evidence(run_dir)
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    for policy in ("base", "sft", "dpo"):
        metrics = found["truth"][policy]
        assert all(set(metrics[name]) == LEAF for name in TRUTH)
        assert set(metrics["adherence_by_principle"]) == {"accuracy", "empathy", "privacy", "uncertainty", "no-harm"}
    assert set(found["truth"]["differences"]) == {"sft-base", "dpo-base", "dpo-sft"}
    assert found["run"]["name"] == "made-up"
    assert found["run"]["constitution"]["principles"] == ["accuracy", "empathy", "privacy", "uncertainty", "no-harm"]
    assert found["run"]["versions"] == {"torch": "2.13.0"}
    assert found["funnel"]["10-revise"]["rejected: unchanged though flagged"] == 26
    assert found["health"]["status"] == "warning"
    assert found["seconds_by_stage"]["20-sft"] == 38.2
    assert found["judge"]["comparisons"]["dpo-base"]["pooled"]["win_rate"]["value"] > 0.8


def test_labels_are_those_that_dpo_trained_on(run_dir: Path) -> None:
    labels = evidence(run_dir)["labels"]
    ps = [row["p"] for row in read_jsonl(run_dir / "30-pairs" / "preferences.jsonl")]
    assert sum(labels["histogram"]["counts"]) == labels["preferences"] == len(ps)
    assert labels["histogram"]["counts"][0] == sum(p < 0.55 for p in ps)
    assert labels["histogram"]["counts"][-1] == sum(p >= 0.95 for p in ps)
    assert labels["mass"] == pytest.approx(0.96)
    assert 0.2 < labels["position_logit"] < 0.4


def test_pairs_of_judgments_are_counted_and_what_the_meta_judge_likes(run_dir: Path) -> None:
    """Three meta-judgments, one not had: first places win .8, .4, .5 and .5, a mean of .55. Two of three pairs have scores."""
    folder, before = run_dir / "30-pairs", evidence(run_dir)
    assert before["labels"]["meta"] is None

    def judged(id: str, first: float, second: float, p: float | None = 0.7) -> Row:
        orders = {f"logprobs_{order}": [log(q), log(1 - q)] for order, q in (("ab", first), ("ba", second))}
        return {"id": id, "p": p, "verdicts": [{"p": p, **orders}], "tokens": 10, "cost_usd": 0.0}

    write_jsonl(folder / "meta_judgments.jsonl", [judged("1", 0.8, 0.6), judged("2", 0.5, 0.5), judged("3", 0.9, 0.9, p=None)])
    pairs = [
        {"id": f"meta_judged/{n}", "builder": "meta_judged", "prompt_id": "p00", "p": 0.75, "lengths": [3, 2], "scores": scores}
        for n, scores in enumerate(([4.0, 2.0], [1.0, 2.0], [None, None]))
    ]
    write_jsonl(folder / "preferences.jsonl", [*read_jsonl(folder / "preferences.jsonl"), *pairs])
    found = evidence(run_dir)
    first_wins = found["labels"]["meta"].pop("first_wins")
    assert first_wins == pytest.approx(0.55)
    assert found["labels"]["meta"] == {"judgments": 3, "no_judgment": 1, "higher_score": 0.5}
    assert found["labels"]["by_builder"]["meta_judged"]["preferences"] == 3
    assert found["cost"]["judge_tokens"] == before["cost"]["judge_tokens"] + 30
    page = write_report(run_dir).read_text(encoding="utf-8")
    assert "3 more are of its own judgments, from 3 comparisons of them; the one shown first won 55" in page
    assert "3, from 3 comparisons of the policy's judgments by the policy" in page


def test_costs_add_up_over_stages(run_dir: Path) -> None:
    """449 label judgments and 3 x 40 of the evaluation at 640 tokens; 120 answers at 20 + 30."""
    cost = evidence(run_dir)["cost"]
    assert cost == {"usd": 0.0, "judge_tokens": (449 + 120) * 640, "tokens": 120 * 50, "per_preference": None}


def test_the_audit_costs_what_it_asked_and_a_preference_its_share(run_dir: Path) -> None:
    """The judge behind a server: 449 judgments of $.002 and 640 tokens for 449 preferences. Of 320 (129 fewer): 449 / 320."""
    text = (
        (run_dir / "recipe.yaml")
        .read_text()
        .replace("endpoints: {}", "endpoints: {desk: {base_url: http://localhost/v1, model: m}}")
    )
    (run_dir / "recipe.yaml").write_text(text.replace("  model: same", "  model: desk"))
    rows = [row | {"cost_usd": 0.002} for row in read_jsonl(run_dir / "30-pairs" / "judgments.jsonl")]
    write_jsonl(run_dir / "30-pairs" / "judgments.jsonl", rows)
    write_jsonl(run_dir / "25-audit" / "judgments.jsonl", rows[:10])
    cost = evidence(run_dir)["cost"]
    assert cost["per_preference"] == {"usd": pytest.approx(0.002), "tokens": 640}
    assert cost["usd"] == pytest.approx(0.002 * 459) and cost["judge_tokens"] == (449 + 120 + 10) * 640
    assert "A preference took 640 tokens of judging, $0.0020." in dict(story(evidence(run_dir)))["Cost"]
    preferences = list(read_jsonl(run_dir / "30-pairs" / "preferences.jsonl"))[:320]
    people = [row | {"source": "human", "builder": "human"} for row in preferences[:100]]
    write_jsonl(run_dir / "30-pairs" / "preferences.jsonl", [*preferences, *people])
    assert evidence(run_dir)["cost"]["per_preference"]["usd"] == pytest.approx(0.002 * 449 / 320)
    write_jsonl(run_dir / "30-pairs" / "judgments.jsonl", [row | {"cost_usd": None} for row in rows])
    assert evidence(run_dir)["cost"]["per_preference"]["usd"] is None
    assert "of judging, price unknown." in dict(story(evidence(run_dir)))["Cost"]


def test_the_audit_is_part_of_the_evidence(run_dir: Path) -> None:
    audit = evidence(run_dir)["audit"]
    assert audit["agreement"]["accuracy"]["n"] == 60 and audit["agreement"]["accuracy"]["low"] > 0.5
    assert audit["gate"]["may_label"] and [check["name"] for check in audit["gate"]["accepted"]] == ["padded"]
    said = dict(story(evidence(run_dir)))["Labels"]
    assert "the judge agreed with gold on" in said and "though it failed padded." in said and "Warned of: position" in said


def test_command_is_quoted_and_names_the_lock(make_run: Callable[..., Path], tmp_path: Path) -> None:
    run = make_run(tmp_path / "a run; rm", until="00-prompts")
    command = evidence(run)["run"]["command"]
    assert f"'constitution={run}/constitution.lock.yaml'" in command
    assert command.endswith("name=made-up-again")


@pytest.mark.parametrize("until", ["00-prompts", "10-revise", "20-sft", "25-audit", "30-pairs", "40-dpo"])
def test_a_run_that_stopped_early_has_none_where_nothing_was_measured(
    make_run: Callable[..., Path], tmp_path: Path, until: str
) -> None:
    found = evidence(make_run(tmp_path / "run", until=until))
    assert found["truth"] is found["judge"] is found["text"] is None
    assert (found["audit"] is None) == (until < "25-audit")
    assert (found["labels"] is None) == (until < "30-pairs")
    assert (found["health"] is None) == (until < "40-dpo")
    assert list(found["funnel"])[-1] == max("10-revise", until)


def test_an_empty_folder_is_no_error(tmp_path: Path) -> None:
    found = evidence(tmp_path)
    assert found["run"]["constitution"] is None
    assert found["funnel"] == {}
    assert found["cost"]["usd"] == 0


def test_final_policies_lie_where_the_pipeline_puts_them() -> None:
    assert {name: f"{stage}/adapter" for name, stage in FINAL_STAGE.items()} == {o: policies_of(o)[o] for o in OPTIMIZERS}


def test_answers_of_ppo_count(make_run: Callable[..., Path], tmp_path: Path) -> None:
    """8 answers of the baseline and 40 of the updates, at 20 + 10; 120 evaluated ones at 20 + 30."""
    assert evidence(make_run(tmp_path / "run", optimizer="ppo"))["cost"]["tokens"] == 48 * 30 + 120 * 50


def test_docs_name_every_key(run_dir: Path) -> None:
    text = (Path(__file__).parents[2] / "docs" / "evidence.md").read_text(encoding="utf-8")
    found = evidence(run_dir)
    keys = [
        *found,
        *found["run"],
        *found["truth"]["dpo"],
        *found["judge"],
        *found["labels"],
        *found["cost"],
        *found["audit"],
        *found["audit"]["gate"],
    ]
    keys += ["engines", "system_prompt", "with_minus_without", "by_category", "not_measured", "refusals_by"]
    keys += [*found["gaps"], *found["gaps"]["links"], *found["gaps"]["weakest"], *found["gaps"]["links"]["judge-labels"]]
    keys += [*found["gaps"]["capability"], "near", "order", "against", "unreached", "unreal"]
    keys += [*found["text"], *found["text"]["policies"]["dpo"], *found["judge"]["comparisons"]["dpo-base"]["pooled"]]
    assert [key for key in keys if f"`{key}`" not in text] == []
