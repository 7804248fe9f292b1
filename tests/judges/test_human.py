import csv
import json
from collections import Counter
from itertools import pairwise

import pytest

from rlaif_dpo.errors import UserError
from rlaif_dpo.files import read_jsonl
from rlaif_dpo.judges.base import Comparison, Criterion
from rlaif_dpo.judges.human import HumanJudge
from rlaif_dpo.judges.labels import export_for_labelling, key_path, read_labels
from rlaif_dpo.messages import assistant, user

TALK = (user("Hello?"), assistant("Hi."), user("Help, it hurts!"))
FORMULA = '=HYPERLINK("x")\n\nwith, commas and "quotes"'


def pair(n, first=None, second=None):
    return Comparison(
        f"dpo-base/p{n}", TALK, first or f"good {n}", second or f"bad {n}", (Criterion("kind", "Which is kinder?"),)
    )


def labels_of(tmp_path, *rows, name="labels.jsonl"):
    path = tmp_path / name
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return read_labels(str(path))


def p_of(labels, comparison):
    (judgment,) = HumanJudge(labels).compare([comparison])
    return judgment.p


@pytest.mark.parametrize(("label", "p"), [("a", 1.0), (" B ", 0.0), ("tie", 0.5), (0.7, 0.7), ("0.25", 0.25), (1, 1.0)])
def test_what_a_label_may_be(tmp_path, label, p):
    row = {"prompt": list(TALK), "a": "good 1", "b": "bad 1", "label": label}
    labels = labels_of(tmp_path, row)
    assert p_of(labels, pair(1)) == p
    assert p_of(labels, pair(1, "bad 1", "good 1")) == 1 - p  # the same pair the other way round
    assert p_of(labels, pair(2)) is None


def test_several_people_are_averaged_and_counted(tmp_path):
    """a, a, tie: (1 + 1 + .5) / 3; one of them saw the pair the other way round."""
    text = {"prompt": list(TALK), "a": "good 1", "b": "bad 1"}
    mirrored = {"prompt": list(TALK), "a": "bad 1", "b": "good 1"}
    rows = [{**text, "label": "a", "annotator": "Ann"}, {**mirrored, "label": "b", "annotator": "Bob"}, {**text, "label": "tie"}]
    (judgment,) = HumanJudge(labels_of(tmp_path, *rows)).compare([pair(1)])
    assert judgment.p == pytest.approx(2.5 / 3) and (judgment.source, judgment.spread) == ("human", 0.5)
    assert Counter((m.judge, m.p) for m in judgment.members) == Counter([("Ann", 1.0), ("Bob", 1.0), ("annotator 2", 0.5)])


def test_by_id_and_by_a_transcript_in_a_csv(tmp_path):
    path = tmp_path / "labels.csv"
    path.write_text("id,label\ndpo-base/p1,b\ndpo-base/p2,\n")
    labels = read_labels(str(path))
    assert len(labels) == 1 and p_of(labels, pair(1)) == 0.0
    path.write_text(
        'prompt,a,b,label\n"Human: Hello?\r\n\r\nAssistant: Hi.\r\n\r\nHuman: Help, it hurts!\n\nAssistant:",good 1,bad  1,a\n'
    )
    assert p_of(read_labels(str(path)), pair(1)) == 1.0
    (judgment,) = HumanJudge(labels).compare([pair(3)])
    assert (judgment.p, judgment.error, judgment.members) == (None, "nobody has labelled this pair", ())
    assert list(HumanJudge(labels).compare([pair(1)], skip={pair(1).id})) == []


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"id": "x", "label": "c"}, 'row 1: the label "c" is none of a, b, tie'),
        ({"id": "x", "label": 1.5}, 'the label "1.5" is none of'),
        ({"id": "x", "label": float("nan")}, 'the label "nan" is none of'),
        ({"id": "x", "lable": "a"}, 'has no column "label". Did you mean "lable"?'),
        ({"prompt": "q", "a": "x", "label": "a"}, "does not say which pair"),
        ({"prompt": [1], "a": "x", "b": "y", "label": "a"}, "`prompt` is neither a text nor a list"),
        ({"id": "x", "label": None}, "has no label yet"),
    ],
)
def test_a_label_that_cannot_be_read_is_one_line(tmp_path, row, said):
    with pytest.raises(UserError) as error:
        labels_of(tmp_path, row)
    assert said in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_a_sheet_is_blind_and_its_key_restores_the_pairs(tmp_path, kind):
    """An annotator who always prefers the "good" reply: every pair comes back with p = 1, whatever side it was shown on."""
    comparisons = [pair(n) for n in range(40)] + [pair(40, FORMULA, "bad 40")]
    sheet = tmp_path / f"sheet.{kind}"
    export_for_labelling(comparisons, sheet, seed=7)
    text = sheet.read_text()
    assert "dpo" not in text and not any(comparison.id in text for comparison in comparisons)

    rows = list(csv.DictReader(sheet.open(newline=""))) if kind == "csv" else list(read_jsonl(sheet))
    assert len(rows) == 41 and {row["question"] for row in rows} == {"Which is kinder?"}
    shown_first = sum("good" in row["a"] for row in rows)
    assert 8 <= shown_first <= 32  # 40 fair coins: 20, standard deviation 3.2
    numbers = [int(word) for row in rows for word in row["a"].split() if word.isdigit()]
    assert any(a > b for a, b in pairwise(numbers))
    if kind == "csv":
        assert not any(cell.startswith("=") for row in rows for cell in row.values())
    for row in rows:
        row["label"] = "A" if not row["a"].startswith("bad") else "b"
        row["a"], row["b"] = row["a"].replace("\n", "\r\n") + " ", ""  # what a spreadsheet does to texts is no matter
    if kind == "csv":
        with sheet.open("w", newline="", encoding="utf-8-sig") as file:
            writer = csv.DictWriter(file, rows[0])
            writer.writeheader()
            writer.writerows(rows)
    else:
        sheet.write_text("".join(json.dumps(row) + "\n" for row in rows))
    labels = read_labels(str(sheet))
    assert {j.p for j in HumanJudge(labels).compare(comparisons)} == {1.0}
    assert {label.id for label in labels} == {comparison.id for comparison in comparisons}


def test_a_sheet_without_its_key_is_still_labels_by_text(tmp_path):
    sheet = tmp_path / "sheet.jsonl"
    export_for_labelling([pair(n) for n in range(10)], sheet)
    rows = [{**row, "label": "a" if "good" in row["a"] else "b"} for row in read_jsonl(sheet)]
    key_path(sheet).unlink()
    assert {p_of(labels_of(tmp_path, *rows), pair(n)) for n in range(10)} == {1.0}


def test_sheets_are_never_overwritten_and_strange_rows_are_refused(tmp_path):
    sheet = tmp_path / "sheet.csv"
    export_for_labelling([pair(1)], sheet)
    with pytest.raises(UserError, match="is there already"):
        export_for_labelling([pair(1)], sheet)
    with pytest.raises(UserError, match="a .csv or .jsonl file"):
        export_for_labelling([pair(1)], tmp_path / "sheet.xlsx")
    sheet.write_text("pair,label\nsomething,a\n")
    with pytest.raises(UserError, match="not in the key beside the sheet"):
        read_labels(str(sheet))
