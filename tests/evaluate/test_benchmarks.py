import json
import re
from pathlib import Path

import pytest

from rlaif_dpo.errors import UserError
from rlaif_dpo.evaluate.benchmarks import Item, grade_choice, grade_text, is_file, read_benchmark


def write(path: Path, *rows: dict) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def test_the_right_option_by_text_label_letter_or_index(tmp_path: Path) -> None:
    """An option's own text wins over its place: the answer "1" of the options 1 and 2 is the first."""
    source = write(
        tmp_path / "arc.jsonl",
        {"question": "q", "options": ["x", "y", "z"], "answer": "y"},
        {"question": "q", "options": ["x", "y", "z"], "answer": "C"},
        {"question": "q", "options": ["x", "y", "z"], "answer": 0},
        {"question": "q", "options": {"text": ["x", "y"], "label": ["1", "2"]}, "answer": "2"},
        {"question": "q", "options": ["1", "2"], "answer": "1"},
        {"question": "q", "options": ["x", "y"], "answer": "1"},
    )
    found = read_benchmark(source, {})
    assert (found.name, found.kind) == ("arc", "choice")
    assert [item.answers for item in found.items] == [(1,), (2,), (0,), (1,), (0,), (1,)]
    assert len(read_benchmark(source, {}, limit=2).items) == 2


def test_columns_of_another_name_and_csv(tmp_path: Path) -> None:
    source = write(tmp_path / "b.jsonl", {"q": "2 + 2?", "a": [4, "four"]})
    found = read_benchmark(source, {"question": "q", "answer": "a"})
    assert found.kind == "exact" and found.items[0] == Item("1", "2 + 2?", (), ("4", "four"))
    sheet = tmp_path / "c.csv"
    sheet.write_text('question,options,answer\nq,"[""x"", ""y""]",B\n')
    assert read_benchmark(str(sheet), {}).items[0].answers == (1,)
    assert is_file(source) and is_file("not-there.jsonl") and not is_file("hellaswag")
    described = tmp_path / "task.yaml"
    described.write_text("task: mine\n")
    assert not is_file(str(described)) and is_file(str(sheet)), "lm-eval reads a task from its YAML file itself"


@pytest.mark.parametrize(
    ("row", "columns", "said"),
    [
        ({"question": "q", "answer": "z", "options": ["x", "y"]}, {}, "row 1: the answer is 'z'"),
        ({"question": "q", "answer": 2, "options": ["x", "y"]}, {}, "the answer is 2"),
        ({"question": "q", "answer": True, "options": ["x", "y"]}, {}, "the answer is True"),
        ({"question": "q", "answer": 0, "options": ["x"]}, {}, "two texts or more"),
        ({"question": "q", "answer": 0, "options": ["x", ""]}, {}, "an option is empty"),
        ({"question": "q", "answer": 0, "options": "x"}, {}, "list of texts"),
        ({"question": "", "answer": "x"}, {}, "the question must be a text"),
        ({"question": "q", "answer": []}, {}, "the answer must be a text"),
        ({"questions": "q", "answer": "x"}, {}, 'no column "question".* Did you mean "questions"'),
        ({"question": "q", "answer": "x"}, {"options": "choices"}, 'no column "choices"'),
        ({"question": "q", "answer": "x"}, {"optoins": "choices"}, 'Did you mean "options"'),
    ],
)
def test_what_cannot_be_read_is_said_with_its_row(tmp_path: Path, row: dict, columns: dict, said: str) -> None:
    with pytest.raises(UserError, match=said):
        read_benchmark(write(tmp_path / "b.jsonl", row), columns)


def test_files_that_are_no_benchmark(tmp_path: Path) -> None:
    mixed = write(tmp_path / "m.jsonl", {"question": "q", "options": ["x", "y"], "answer": 0}, {"question": "q", "answer": "x"})
    for source, said in (
        (mixed, "make it two files"),
        (write(tmp_path / "e.jsonl"), "has no rows"),
        ("no.jsonl", "no file no.jsonl"),
    ):
        with pytest.raises(UserError, match=said):
            read_benchmark(source, {})


def test_acc_is_the_sum_and_acc_norm_the_mean_per_byte() -> None:
    """-4 for two bytes and -6 for six: the sum prefers the first, -2 against -1 per byte the second. "é" has two bytes."""
    item = Item("1", "q", ("no", "surely"), (1,))
    assert grade_choice(item, (-4.0, -6.0)) == {"acc": 0.0, "acc_norm": 1.0}
    assert grade_choice(Item("1", "q", ("no", "surely"), (0,)), (-4.0, -6.0)) == {"acc": 1.0, "acc_norm": 0.0}
    assert grade_choice(Item("1", "q", ("é", "abc"), (1,)), (-2.1, -3.0)) == {"acc": 0.0, "acc_norm": 1.0}


def test_an_exact_answer_but_for_case_punctuation_articles_and_blanks() -> None:
    item = Item("1", "q", (), ("The Nile", "42"))
    for text in ("the nile", " Nile. ", "A  NILE!", "42"):
        assert grade_text(item, text, None) == {"exact_match": 1.0}, text
    for text in ("It is the Nile", "", "420", "Niles"):
        assert grade_text(item, text, None) == {"exact_match": 0.0}, text
    assert grade_text(item, "17, no: #### 42", re.compile(r"#### (\d+)"))["exact_match"] == 1
    assert grade_text(item, "42 or 17", re.compile(r"\d+"))["exact_match"] == 0, "the last match counts"
    assert grade_text(item, "none", re.compile(r"(\d+)"))["exact_match"] == 0
