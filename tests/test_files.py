"""Files that survive a kill."""

import tracemalloc
from pathlib import Path

import pytest

from rlaif_dpo.errors import UserError
from rlaif_dpo.files import Journal, JsonlWriter, read_jsonl, replacing_jsonl, write_jsonl


def test_a_journal_reads_its_rows_from_disk_and_the_later_row_counts(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    write_jsonl(path, [{"id": "a", "text": "zum Café 🦦"}, {"id": "b", "text": "b"}])
    with Journal(path) as journal:
        assert journal["a"]["text"] == "zum Café 🦦" and journal["b"]["text"] == "b"
        journal.write({"id": "c", "text": "\ud800"})  # half of a surrogate pair, as models do write it
        journal.write({"id": "a", "text": "again"})
        assert journal["a"]["text"] == "again" and journal["c"]["text"] == "\ud800"
        assert list(journal) == ["a", "b", "c"] and len(journal) == 3 and "d" not in journal and journal.get("d") is None
    with Journal(path) as journal:
        assert {id: row["text"] for id, row in journal.items()} == {"a": "again", "b": "b", "c": "\ud800"}
    assert [row["id"] for row in read_jsonl(path)] == ["a", "b", "c", "a"]


def test_a_journal_cuts_off_a_torn_line_and_says_where_another_is_damaged(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"id": "a"}\n{"id": "b"')
    with Journal(path) as journal:
        assert list(journal) == ["a"]
        journal.write({"id": "b"})
    assert path.read_text() == '{"id": "a"}\n{"id": "b"}\n'
    path.write_text('{"id": "a"}\n{"id": \n{"id": "c"}\n')
    with pytest.raises(UserError, match=r"rows.jsonl:2: this line is damaged"):
        Journal(path)


@pytest.mark.parametrize("torn", ['{"id": "b"', "x" * 200_000, ""])
def test_a_torn_line_is_cut_off_however_long_it_is(tmp_path: Path, torn: str) -> None:
    """The end of a large file is looked at in parts: the last whole line may begin several of them before."""
    path = tmp_path / "rows.jsonl"
    whole = '{"id": "a", "text": "' + "y" * 150_000 + '"}\n'
    for kept in (whole, ""):
        path.write_text(kept + torn)
        JsonlWriter(path).close()
        assert path.read_text() == kept


def test_memory_does_not_grow_with_the_rows_of_a_journal(tmp_path: Path) -> None:
    """10,000 rows, the 2 MB aside that SQLite takes at most; as a control, a dictionary of the same places takes a megabyte."""
    path = tmp_path / "rows.jsonl"
    write_jsonl(path, ({"id": f"row {n}", "text": "a word"} for n in range(10_000)))
    tracemalloc.start()
    try:
        with Journal(path) as journal:
            assert len(journal) == 10_000 and journal["row 9999"]["text"] == "a word"
            assert tracemalloc.get_traced_memory()[1] < 300_000
        tracemalloc.reset_peak()
        places = {row["id"]: n for n, row in enumerate(read_jsonl(path))}
        assert len(places) == 10_000 and tracemalloc.get_traced_memory()[1] > 900_000
    finally:
        tracemalloc.stop()


def test_what_replaces_a_file_does_so_only_when_all_of_it_was_made(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    write_jsonl(path, [{"id": "old"}])
    with pytest.raises(RuntimeError), replacing_jsonl(path) as write:
        write({"id": "new"})
        raise RuntimeError
    assert [row["id"] for row in read_jsonl(path)] == ["old"]
    with replacing_jsonl(path) as write:
        write({"id": "new"})
    assert [row["id"] for row in read_jsonl(path)] == ["new"]
