import json
from collections import Counter

import pytest

from rlaif_dpo.errors import UserError
from rlaif_dpo.files import write_jsonl
from rlaif_dpo.messages import assistant, user
from rlaif_dpo.pairs.human import human_preferences, mix, read_comparisons
from rlaif_dpo.pairs.preferences import hygiene
from rlaif_dpo.prompts.load import load_prompts
from rlaif_dpo.recipe.schema import PromptSource

TALK = [user("Hello?"), assistant("Hi."), user("Help!")]
TRANSCRIPT = "\n\nHuman: Hello?\n\nAssistant: Hi.\n\nHuman: Help!\n\nAssistant: {}"
FORMS = {
    "texts": {"prompt": "Help!", "chosen": "Call 911.", "rejected": "Wait."},
    "messages": {"prompt": TALK, "chosen": [assistant("Call 911.")], "rejected": [assistant("Wait.")]},
    "whole conversations": {"chosen": [*TALK, assistant("Call 911.")], "rejected": [*TALK, assistant("Wait.")]},
    "with a prompt beside them": {
        "prompt": "Help!",
        "chosen": [user("Help!"), assistant("Call 911.")],
        "rejected": [user("Help!"), assistant("Wait.")],
    },
    "transcripts": {"chosen": TRANSCRIPT.format("Call 911."), "rejected": TRANSCRIPT.format("Wait.")},
}


def words(text):
    return len(text.split())


def read(tmp_path, *rows, **more):
    write_jsonl(tmp_path / "set.jsonl", rows)
    return human_preferences(str(tmp_path / "set.jsonl"), words, **more)


@pytest.mark.parametrize("row", FORMS.values(), ids=FORMS)
def test_each_form_of_a_preference_set_becomes_the_same_row(tmp_path, row):
    (found,), dropped = read(tmp_path, row)
    talk = TALK if "Hi." in json.dumps(row) else [user("Help!")]
    assert (found["prompt"], found["chosen"], found["rejected"]) == (talk, [assistant("Call 911.")], [assistant("Wait.")])
    assert (found["p"], found["source"], found["judge"], found["lengths"]) == (1.0, "human", "human", [2, 1])
    assert not dropped and hygiene([found]).chosen_longer == 1.0


def test_a_reliability_is_the_rows_p(tmp_path):
    rows, _ = read(tmp_path, *FORMS.values(), reliability=0.72)
    assert {row["p"] for row in rows} == {0.72}
    for wrong in (0.5, 1.2, 0.0):
        with pytest.raises(UserError, match="must be above .5"):
            read(tmp_path, *FORMS.values(), reliability=wrong)


def test_a_prompt_has_the_id_that_prompt_sources_give_it(tmp_path):
    """So that a prompt which phase 1 saw can be told in a human set."""
    (found,), _ = read(tmp_path, FORMS["transcripts"])
    (prompt,) = load_prompts(PromptSource(source=str(tmp_path / "set.jsonl"), column="chosen", paired_column="rejected"), 0).rows
    assert found["prompt_id"] == prompt.id


def test_what_cannot_be_used_is_counted(tmp_path):
    rows = [
        FORMS["texts"],
        FORMS["texts"],
        {"prompt": "q", "chosen": "same", "rejected": " same"},
        {"prompt": "q", "chosen": "x", "rejected": ""},
        {"chosen": "x", "rejected": "y"},
        {"prompt": "q", "chosen": 3, "rejected": "y"},
        {"prompt": "q", "chosen": [{"role": "robot", "content": "x"}], "rejected": "y"},
        {"prompt": "q", "chosen": [user("x")], "rejected": [user("y")]},
        {"chosen": TRANSCRIPT.format("x"), "rejected": TRANSCRIPT.format("y").replace("Hi.", "Ho.")},
    ]
    found, dropped = read(tmp_path, *rows)
    assert len(found) == 1
    expected = {
        "duplicate": 1,
        "twice the same answer": 1,
        "not a prompt with two answers": 5,
        "answers to different conversations": 1,
    }
    assert dropped == Counter(expected)


def test_nothing_usable_and_no_column_are_one_line(tmp_path):
    with pytest.raises(UserError, match=r'has no column "chosen". Did you mean "choosen"\?'):
        read(tmp_path, {"choosen": "x", "rejected": "y"})
    with pytest.raises(UserError, match=r"No usable pair in .* \(1 twice the same answer\)"):
        read(tmp_path, {"prompt": "q", "chosen": "x", "rejected": "x"})
    with pytest.raises(UserError, match="There is no file"):
        read_comparisons(str(tmp_path / "nowhere.jsonl"))


def rows(name, count):
    return [{"id": f"{name}{n}", "source": name} for n in range(count)]


@pytest.mark.parametrize(
    ("ai", "human", "expected"),
    [(1, 1, (100, 100)), (3, 1, (300, 100)), (9, 1, (300, 33)), (0, 1, (0, 100)), (0.5, 0.5, (100, 100)), (1, 0.25, (300, 75))],
)
def test_the_mix_has_the_shares_of_the_weights_and_as_many_rows_as_there_can_be(ai, human, expected):
    """300 rows of the judge and 100 of people: total = min(300 / w_ai, 100 / w_human) over the weights above 0."""
    mixed = mix({"ai": rows("a", 300), "human": rows("h", 100)}, {"ai": ai, "human": human}, seed=1)
    counts = Counter(row["source"] for row in mixed)
    assert (counts["a"], counts["h"]) == expected and len({row["id"] for row in mixed}) == len(mixed)


def test_the_mix_follows_its_seed_and_not_the_order_of_the_rows():
    sources, weights = {"ai": rows("a", 30), "human": rows("h", 10)}, {"ai": 1.0, "human": 1.0}
    first = mix(sources, weights, seed=1)
    assert first == mix({name: of[::-1] for name, of in sources.items()}, weights, seed=1) != mix(sources, weights, seed=2)
    assert [row["source"] for row in first] != sorted(row["source"] for row in first)


@pytest.mark.parametrize("weights", [{"ai": 1.0}, {"ai": -1.0, "human": 1.0}, {"ai": 0.0, "human": 0.0}])
def test_weights_that_make_no_mix(weights):
    with pytest.raises(UserError, match="a weight for each of ai, human"):
        mix({"ai": rows("a", 3), "human": rows("h", 3)}, weights, seed=0)
