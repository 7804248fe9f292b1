"""What a re-run asks again: rows that are missing, that failed, or that were asked something else."""

from pathlib import Path

from rlaif_dpo.engines.base import Request, Sampling
from rlaif_dpo.engines.journal import complete
from rlaif_dpo.engines.scripted import ScriptedEngine
from rlaif_dpo.files import read_journal, read_jsonl
from rlaif_dpo.messages import user
from rlaif_dpo.progress import Silent


def requests(*texts: str) -> list[Request]:
    return [Request(f"r{n}", (user(text),), Sampling(), n) for n, text in enumerate(texts)]


def ask(path: Path, asked: list[Request], *broken: str, reason: str = "CUDA out of memory") -> tuple[dict, list[str]]:
    """The rows after `asked`, where the engine fails on the texts in `broken`; and the ids it was asked for."""
    engine = ScriptedEngine(
        lambda r: RuntimeError(reason) if r.messages[0]["content"] in broken else f"answer to {r.messages[0]['content']}"
    )
    rows = complete(path, engine, asked, lambda completion: {}, Silent(), "answers")
    return rows, engine.generated


def test_a_failed_row_is_tried_again_and_the_later_row_counts(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    rows, _ = ask(path, requests("a", "b", "c"), "b")
    assert rows["r1"]["error"] == "CUDA out of memory"
    rows, generated = ask(path, requests("a", "b", "c"))
    assert generated == ["r1"]
    assert (rows["r1"]["text"], rows["r1"]["error"]) == ("answer to b", None)
    assert [row["id"] for row in read_jsonl(path)] == ["r0", "r1", "r2", "r1"]  # append-only: what happened stays readable
    assert read_journal(path) == rows
    assert ask(path, requests("a", "b", "c")) == (rows, [])


def test_a_row_that_fails_again_in_the_same_way_is_not_written_twice(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    ask(path, requests("a", "b"), "b")
    before = path.read_bytes()
    assert ask(path, requests("a", "b"), "b")[1] == ["r1"]
    assert path.read_bytes() == before
    ask(path, requests("a", "b"), "b", reason="the server is gone")
    assert [row["error"] for row in read_jsonl(path)] == [None, "CUDA out of memory", "the server is gone"]


def test_without_failures_a_resumed_file_is_the_same_to_the_byte(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    ask(path, requests("a", "b", "c"))
    whole = path.read_bytes()
    for cut in range(0, len(whole) + 1, 7):
        path.write_bytes(whole[:cut])
        ask(path, requests("a", "b", "c"))
        assert path.read_bytes() == whole


def test_a_row_that_answers_another_question_is_asked_again(tmp_path: Path) -> None:
    """A revision stands on the critique before it: once that was tried again, it is another question under the same id."""
    path = tmp_path / "rows.jsonl"
    ask(path, requests("a", "b"))
    rows, generated = ask(path, requests("a", "B"))
    assert generated == ["r1"] and rows["r1"]["text"] == "answer to B"


def test_a_torn_line_is_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"id": "r0", "error": null, "te')
    assert ask(path, requests("a"))[1] == ["r0"]
    assert [row["id"] for row in read_jsonl(path)] == ["r0"]
