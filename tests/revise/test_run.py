import json
import random
from pathlib import Path

import pytest

from rlaif_dpo.engines.base import Request
from rlaif_dpo.engines.scripted import ScriptedEngine
from rlaif_dpo.errors import UserError
from rlaif_dpo.files import read_journal, read_jsonl
from rlaif_dpo.messages import assistant, user
from rlaif_dpo.progress import Silent
from rlaif_dpo.recipe.schema import HelpfulnessMix, Revise
from rlaif_dpo.revise.run import ReviseSummary, run_revise, try_prompt
from rlaif_dpo.revise.templates import critique_messages, revision_messages
from rlaif_dpo.seeding import derive_seed
from tests.revise.desk import CONSTITUTION, engine, principle, prompt, reply
from tests.scripts import Killed, LimitedEngine

FATES = (
    "plain", "clean", "clean later", "stubborn", "stubborn later", "critic breaks", "reviser breaks",
    "empty", "endless", "loops", "too long",
)  # fmt: skip
PROMPTS = [prompt(f"p{i}", fate) for i, fate in enumerate(FATES * 2)]
SETTINGS = Revise(rounds=2, max_new_tokens=50)
FILES = ("drafts.jsonl", "critiques.jsonl", "revisions.jsonl", "rejected.jsonl", "sft.jsonl")


def run(
    folder: Path, settings: Revise = SETTINGS, prompts=PROMPTS, model=None, seed: int = 0, constitution=CONSTITUTION
) -> ReviseSummary:
    model = model or engine()
    return run_revise(prompts, constitution, settings, model, model, folder, seed, Silent())


def contents(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in FILES}


def by_fate(folder: Path, name: str) -> dict[str, dict]:
    return {row["prompt"][0]["content"]: row for row in read_jsonl(folder / name)}


def test_each_fate_ends_where_it_should(tmp_path: Path) -> None:
    summary = run(tmp_path)
    kept, rejected = by_fate(tmp_path, "sft.jsonl"), by_fate(tmp_path, "rejected.jsonl")
    assert set(kept) == {"plain", "clean", "clean later"}
    assert {fate: row["reason"] for fate, row in rejected.items()} == {
        "stubborn": "unchanged though flagged",
        "stubborn later": "still flagged",
        "critic breaks": "every step failed",
        "reviser breaks": "every step failed",
        "empty": "empty",
        "endless": "no end of sequence",
        "loops": "repetition",
        "too long": "draft failed",
    }
    assert rejected["too long"]["error"] == "prompt too long"
    assert summary.funnel == {
        "prompts": 22,
        "drafts": 20,
        "steps": 40,
        # all but clean (2 x 2), critic breaks (2 x 2) and the second round of clean later (2)
        "flagged": 30,
        # 20 prompts x 2 rounds without critic breaks and reviser breaks (2 x 2 each)
        "revisions": 32,
        # plain 4, clean later 4, stubborn later 2, empty 2 (from draft to nothing), endless 2, loops 2
        "changed": 16,
        "failed steps": 8,
        "rows": 22,
        "dropped: no principle applies": 0,
        "dropped: draft failed": 2,
        "dropped: every step failed": 4,
        "dropped: empty": 2,
        "dropped: no end of sequence": 2,
        "dropped: repetition": 2,
        "dropped: unchanged though flagged": 2,
        "dropped: still flagged": 2,
        "kept": 6,
        "helpfulness": 0,
        "written": 6,
    }


def test_a_row_carries_its_provenance(tmp_path: Path) -> None:
    run(tmp_path)
    row = by_fate(tmp_path, "sft.jsonl")["plain"]
    steps = {step["id"]: step for step in read_jsonl(tmp_path / "revisions.jsonl") if step["prompt_id"] == row["prompt_id"]}
    last = steps[row["id"]]
    assert row["completion"] == [{"role": "assistant", "content": last["after"]}]
    assert row["principle_ids"] == [step["principle_id"] for step in steps.values()]
    assert (row["kind"], row["constitution"], row["engine"], row["template_hash"]) == (
        "revision",
        "c0ffee",
        "desk-model",
        "scripted",
    )
    first = steps[f"{row['prompt_id']}/1"]
    assert last["before"] == first["after"] and last["flagged"] and last["critique"].startswith("The reply is rude")
    assert last["seed"] == derive_seed(0, "revision", f"{row['prompt_id']}/2")


def test_a_step_asks_with_the_given_templates_and_drops_the_critique_afterwards(tmp_path: Path) -> None:
    asked: dict[str, list[Request]] = {}

    def listen(request: Request) -> str | Exception:
        asked.setdefault(request.id, []).append(request)
        return reply(request)

    run(tmp_path, prompts=[prompt("p", "plain")], model=ScriptedEngine(listen))
    draft, step = next(read_jsonl(tmp_path / "drafts.jsonl")), list(read_jsonl(tmp_path / "revisions.jsonl"))[1]
    sampled = next(p for p in CONSTITUTION.principles if p.id == step["principle_id"])
    critique, revision = asked["p/2"]
    assert asked["p"][0].messages == (user("plain"),) and draft["text"].startswith("a draft")
    assert critique.messages == critique_messages([user("plain")], step["before"], sampled.critique)
    assert revision.messages == revision_messages(
        [user("plain")], step["before"], sampled.critique, step["critique"], sampled.revision
    )
    assert (critique.sampling.temperature, critique.sampling.max_new_tokens) == (1.0, 50)


def test_principles_are_sampled_by_weight_per_step_and_respect_phase_and_tags(tmp_path: Path) -> None:
    """Weights 1 and 3 over 400 steps: 300 expected for `short`, s.d. sqrt(400 x .25 x .75) = 8.7; five of them are 44.

    With the tag, weights 1, 3 and 2: `tagged` gets a third.
    """
    run(tmp_path / "plain", Revise(rounds=4), [prompt(f"p{i}", "plain") for i in range(100)])
    ids = [row["principle_id"] for row in read_jsonl(tmp_path / "plain" / "critiques.jsonl")]
    assert len(ids) == 400 and set(ids) == {"kind", "short"}
    assert abs(ids.count("short") - 300) < 44
    run(tmp_path / "formal", Revise(rounds=4), [prompt(f"p{i}", "plain", ("formal",)) for i in range(100)])
    ids = [row["principle_id"] for row in read_jsonl(tmp_path / "formal" / "critiques.jsonl")]
    assert set(ids) == {"kind", "short", "tagged"} and abs(ids.count("tagged") - 133) < 48


def test_a_prompts_principles_do_not_depend_on_the_other_prompts(tmp_path: Path) -> None:
    run(tmp_path / "all")
    run(tmp_path / "few", prompts=PROMPTS[2:0:-1])
    steps = {row["id"]: row for row in read_jsonl(tmp_path / "all" / "revisions.jsonl")}
    few = list(read_jsonl(tmp_path / "few" / "revisions.jsonl"))
    assert few and all(row == steps[row["id"]] for row in few)


def test_a_prompt_to_which_no_principle_applies_is_counted(tmp_path: Path) -> None:
    constitution = type(CONSTITUTION)("narrow", (principle("tagged", "Be formal.", applies_to=("formal",)),), hash="1")
    prompts = [prompt("a", "plain"), prompt("b", "plain", ("formal",))]
    summary = run(tmp_path, prompts=prompts, constitution=constitution)
    assert summary.funnel["dropped: no principle applies"] == 1 and summary.funnel["kept"] == 1
    assert [row["id"] for row in read_jsonl(tmp_path / "drafts.jsonl")] == ["b"]


def test_stop_when_clean_ends_the_loop_without_a_revision(tmp_path: Path) -> None:
    run(tmp_path, Revise(rounds=4, max_new_tokens=50, stop_when_clean=True), [prompt("a", "clean"), prompt("b", "clean later")])
    assert [row["id"] for row in read_jsonl(tmp_path / "critiques.jsonl")] == ["a/1", "b/1", "b/2"]
    assert [row["id"] for row in read_jsonl(tmp_path / "revisions.jsonl")] == ["b/1"]
    rows = {row["prompt_id"]: row["completion"][0]["content"] for row in read_jsonl(tmp_path / "sft.jsonl")}
    assert rows["a"].startswith("a draft") and rows["b"].startswith("a better answer")


def test_a_clean_reply_still_gets_its_revision_turn_by_default(tmp_path: Path) -> None:
    run(tmp_path, prompts=[prompt("a", "clean")])
    assert [(row["id"], row["flagged"]) for row in read_jsonl(tmp_path / "revisions.jsonl")] == [("a/1", False), ("a/2", False)]


def test_keep_all_makes_a_row_of_every_revision(tmp_path: Path) -> None:
    summary = run(tmp_path, Revise(rounds=3, max_new_tokens=50, keep_revisions="all"), PROMPTS)
    ids = [row["id"] for row in read_jsonl(tmp_path / "sft.jsonl")]
    assert ids[:3] == ["p0/1", "p0/2", "p0/3"] and len(set(ids)) == len(ids)
    # the first revision of "stubborn later" is good, the two after it mend nothing
    assert "p4/1" in ids and "p4/2" not in ids
    funnel = summary.funnel
    assert funnel["rows"] == funnel["kept"] + sum(n for name, n in funnel.items() if name.startswith("dropped: "))


def test_drop_unchanged_off_keeps_stubborn_replies(tmp_path: Path) -> None:
    run(tmp_path, Revise(rounds=2, max_new_tokens=50, drop_unchanged=False))
    assert {"stubborn", "stubborn later"} <= set(by_fate(tmp_path, "sft.jsonl"))


def test_nothing_left_is_one_sentence_and_the_rows_are_kept(tmp_path: Path) -> None:
    with pytest.raises(
        UserError,
        match="out of 1 prompts; the commonest reason is 'draft failed' .1 times, e.g. prompt too long.",
    ):
        run(tmp_path, prompts=[prompt("a", "too long")])
    assert [row["reason"] for row in read_jsonl(tmp_path / "rejected.jsonl")] == ["draft failed"]


DIALOGUE = [
    user("Hello"), assistant("What?"), user("Critique request: ..."), assistant("It is rude."), user("Revision request: ..."),
    assistant("Hello!"),
]  # fmt: skip


def test_few_shot_dialogues_stand_before_the_conversation_after_its_system_message(tmp_path: Path) -> None:
    seen: list[Request] = []

    def listen(request: Request) -> str | Exception:
        seen.append(request)
        return "There is no problem."

    said: list[str] = []

    class Listening(Silent):
        def say(self, sentence: str) -> None:
            said.append(sentence)

    (tmp_path / "shots.json").write_text(json.dumps([DIALOGUE]))
    row = type(PROMPTS[0])("s", ({"role": "system", "content": "Be."}, user("plain")))
    model = ScriptedEngine(listen)
    settings = Revise(rounds=1, few_shot=str(tmp_path / "shots.json"))
    run_revise([row], CONSTITUTION, settings, model, model, tmp_path, 0, Listening())
    draft, critique, revision = seen
    assert draft.messages == row.messages
    for request in (critique, revision):
        assert list(request.messages[:8]) == [row.messages[0], *DIALOGUE, row.messages[1]]
    assert "finds a fault" in said[0]


@pytest.mark.parametrize(
    "text", ["{", '{"a": 1}', "[[]]", '[[{"role": "user", "content": "x"}]]', json.dumps([DIALOGUE[1:] + DIALOGUE[:1]])]
)
def test_a_bad_few_shot_file_is_one_line(tmp_path: Path, text: str) -> None:
    (tmp_path / "shots.json").write_text(text)
    for path in (tmp_path / "shots.json", tmp_path / "missing.json"):
        with pytest.raises(UserError, match=r"^revise\.few_shot: [^\n]*$"):
            run(tmp_path / "run", Revise(few_shot=str(path)))


def test_helpfulness_rows_from_the_models_own_unflagged_drafts(tmp_path: Path) -> None:
    summary = run(tmp_path, Revise(rounds=2, max_new_tokens=50, helpfulness=HelpfulnessMix(rows=5)))
    mixed = [row for row in read_jsonl(tmp_path / "sft.jsonl") if row["kind"] == "helpfulness"]
    # two prompts are clean; the critic that breaks never said that a draft is clean
    assert [row["prompt"][0]["content"] for row in mixed] == ["clean", "clean"]
    assert summary.funnel["helpfulness"] == 2 and summary.funnel["written"] == summary.funnel["kept"] + 2


def test_helpfulness_rows_from_a_file(tmp_path: Path) -> None:
    rows = [{"prompt": f"q{i}", "completion": f"a{i}"} for i in range(9)] + [{"prompt": "q"}, {"prompt": "q", "completion": ""}]
    (tmp_path / "help.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = Revise(rounds=2, max_new_tokens=50, helpfulness=HelpfulnessMix(source=str(tmp_path / "help.jsonl"), rows=4))
    run(tmp_path, settings)
    mixed = [row for row in read_jsonl(tmp_path / "sft.jsonl") if row["kind"] == "helpfulness"]
    assert len({row["id"] for row in mixed}) == 4
    assert all(row["prompt"][0]["content"][1:] == row["completion"][0]["content"][1:] for row in mixed)
    with pytest.raises(UserError, match="no file nowhere"):
        run(tmp_path, Revise(helpfulness=HelpfulnessMix(source="nowhere.jsonl", rows=4)))


def test_sft_rows_load_as_a_data_set_of_prompt_and_completion(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    run(tmp_path, Revise(rounds=2, max_new_tokens=50, helpfulness=HelpfulnessMix(rows=5)))
    loaded = datasets.load_dataset(
        "json", data_files=str(tmp_path / "sft.jsonl"), split="train", cache_dir=str(tmp_path / "cache")
    )
    assert len(loaded) == 8 and {"prompt", "completion"} <= set(loaded.column_names)
    assert loaded[0]["completion"][0]["role"] == "assistant"


@pytest.mark.parametrize("settings", [SETTINGS, Revise(rounds=3, max_new_tokens=50, stop_when_clean=True, keep_revisions="all")])
def test_killed_after_any_row_it_resumes_to_the_same_files_and_asks_only_failed_rows_twice(
    tmp_path: Path, settings: Revise
) -> None:
    prompts, whole = PROMPTS[:11], engine()
    run(tmp_path / "whole", settings, prompts, whole)
    expected, total = contents(tmp_path / "whole"), len(whole.generated)
    for life in range(total):
        folder = tmp_path / f"life{life}"
        with pytest.raises(Killed):
            run(folder, settings, prompts, engine(life))
        failed = sum(row["error"] is not None for name in FILES[:3] for row in read_jsonl(folder / name))
        rest = engine()
        run(folder, settings, prompts, rest)
        assert contents(folder) == expected
        assert len(rest.generated) == total - life + failed


@pytest.mark.parametrize("settings", [SETTINGS, Revise(rounds=3, max_new_tokens=50, stop_when_clean=True, keep_revisions="all")])
@pytest.mark.parametrize("kind", ["", "/1", "Critique request:", "Revision request:"])
def test_what_failed_is_tried_again_and_ends_as_if_it_never_had(tmp_path: Path, settings: Revise, kind: str) -> None:
    """A draft, all of round 1, every critique or every revision of two prompts fails; then the cause is mended and it runs again.

    The later rounds had stood on the reply without its revision: they are asked anew, and end as in a run without the failure.
    """
    prompts = [prompt(f"p{i}", "plain") for i in range(4)]
    run(tmp_path / "well", settings, prompts)

    def breaks(request: Request) -> str | Exception:
        hit = request.id.startswith(("p1", "p2"))
        if kind.startswith("/"):
            hit = hit and request.id.endswith(kind)
        elif kind:
            hit = hit and request.messages[-1]["content"].startswith(kind)
        return RuntimeError("CUDA out of memory") if hit else reply(request)

    run(tmp_path / "ill", settings, prompts, LimitedEngine(breaks, name="desk-model"))
    assert any(row["error"] for name in FILES[:3] for row in read_jsonl(tmp_path / "ill" / name))
    again = engine()
    run(tmp_path / "ill", settings, prompts, again)
    assert {id.split("/")[0] for id in again.generated} == {"p1", "p2"}  # what stood is not paid for twice
    for name in FILES[:3]:
        assert read_journal(tmp_path / "ill" / name) == read_journal(tmp_path / "well" / name)
    for name in FILES[3:]:
        assert contents(tmp_path / "ill")[name] == contents(tmp_path / "well")[name]


def test_files_cut_at_random_bytes_are_completed_to_the_same(tmp_path: Path) -> None:
    summary = run(tmp_path)
    expected, rng = contents(tmp_path), random.Random(0)
    for _ in range(60):
        for name in FILES:
            data = expected[name]
            cut = rng.choice((rng.randrange(len(data) + 1), len(data), len(data) - 1))
            (tmp_path / name).write_bytes(data[:cut])
        assert run(tmp_path).funnel == summary.funnel
        assert contents(tmp_path) == expected


def test_another_seed_samples_anew(tmp_path: Path) -> None:
    run(tmp_path / "0")
    run(tmp_path / "1", seed=1)
    assert contents(tmp_path / "0")["drafts.jsonl"] != contents(tmp_path / "1")["drafts.jsonl"]


def test_trying_one_prompt_takes_the_same_steps(tmp_path: Path) -> None:
    run(tmp_path)
    steps = try_prompt(PROMPTS[2], CONSTITUTION, SETTINGS, engine(), engine(), 0)
    rows = [row for row in read_jsonl(tmp_path / "revisions.jsonl") if row["prompt_id"] == PROMPTS[2].id]
    assert [step.after for step in steps.steps] == [row["after"] for row in rows]
    assert [step.flagged for step in steps.steps] == [True, False]
    with pytest.raises(UserError, match="no principle of narrow applies"):
        narrow = type(CONSTITUTION)("narrow", (principle("t", "Be formal.", applies_to=("formal",)),), hash="1")
        try_prompt(PROMPTS[2], narrow, SETTINGS, engine(), engine(), 0)
