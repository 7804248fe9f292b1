"""Files that survive `kill -9`: JSONL by append and flush, everything else by write-then-rename."""

import json
import os
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TextIO

from rlaif_dpo.errors import UserError

Row = dict[str, Any]
PLACE = "INSERT INTO places VALUES (?, ?) ON CONFLICT (id) DO UPDATE SET place = excluded.place"


def read_jsonl(path: Path) -> Iterator[Row]:
    """The whole rows of a JSONL file of ours, in order; none if it does not exist. A last line torn by a kill is skipped.

    Raises:
        UserError: Another line is not JSON.
    """
    for _, row in placed_rows(path):
        yield row


def read_journal(path: Path) -> dict[str, Row]:
    """The rows of a JSONL file by their `id`. A row that was made again stands below the old one, and counts."""
    return {row["id"]: row for row in read_jsonl(path)}


class JsonlWriter:
    """Appends rows to a JSONL file, each flushed as it comes. Opening it cuts off a torn last line."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        _cut_torn_line(path)
        self._file = path.open("ab")

    def write(self, row: Mapping[str, Any]) -> int:
        """Append a row, flushed; returns its length in bytes."""
        length = self._file.write(json.dumps(row, ensure_ascii=False).encode("utf-8", "surrogatepass") + b"\n")
        self._file.flush()
        return length

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


class Journal(Mapping[str, Row]):
    """The rows of a JSONL file of ours by their `id`, read from disk as they are asked for.

    Memory does not grow with the rows: their places lie in a table of SQLite's, which goes to the system's temporary folder when
    it has more than 2 MB. What is written goes to the end of the file. A row that is made again stands below the old one, and
    counts.
    Raises:
        UserError: A line but the last is not JSON.
    """

    def __init__(self, path: Path) -> None:
        self._writer = JsonlWriter(path)
        self._places = sqlite3.connect("", isolation_level=None)
        self._places.execute("CREATE TABLE places (id BLOB PRIMARY KEY, place INTEGER)")
        self._places.execute("BEGIN")
        self._places.executemany(PLACE, ((_key(row["id"]), place) for place, row in placed_rows(path)))
        self._places.execute("COMMIT")
        self._end = path.stat().st_size
        self._file = path.open("rb")

    def __getitem__(self, id: str) -> Row:
        self._file.seek(self._place(id))
        row: Row = json.loads(self._file.readline())
        return row

    def __contains__(self, id: object) -> bool:
        try:
            return isinstance(id, str) and self._place(id) >= 0
        except KeyError:
            return False

    def __iter__(self) -> Iterator[str]:
        """Ids in the order in which they came first."""
        for (key,) in self._places.execute("SELECT id FROM places ORDER BY rowid"):
            yield key.decode("utf-8", "surrogatepass")

    def __len__(self) -> int:
        return int(self._places.execute("SELECT count(*) FROM places").fetchone()[0])

    def write(self, row: Mapping[str, Any]) -> None:
        """Append a row, flushed."""
        length = self._writer.write(row)
        self._places.execute(PLACE, (_key(row["id"]), self._end))
        self._end += length

    def _place(self, id: str) -> int:
        found = self._places.execute("SELECT place FROM places WHERE id = ?", (_key(id),)).fetchone()
        if found is None:
            raise KeyError(id)
        return int(found[0])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._writer.close()
        self._file.close()
        self._places.close()


def read_document(path: Path, missing: Callable[[], str]) -> str:
    """The text of a file that the user wrote.

    Raises:
        UserError: There is no such file, and `missing()` says what to do; or it cannot be read, or is not UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise UserError(missing()) from None
    except UnicodeDecodeError:
        raise UserError(f"{path} is not UTF-8 text; save it as UTF-8.") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}); name a readable file.") from None


def write_text(path: Path, text: str) -> None:
    """Replace `path` by `text` at once: a reader sees the old file or the new one, never half of it."""
    with _replacing(path) as file:
        file.write(text)


def write_json(path: Path, value: object) -> None:
    """Replace `path` by `value` as indented JSON, at once."""
    write_text(path, json.dumps(value, ensure_ascii=False, indent=2) + "\n")


def read_json(path: Path) -> Any:
    """The value in a JSON file of the run; None if there is no such file.

    Raises:
        UserError: It is not JSON.
    """
    if not path.exists():
        return None
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        raise UserError(f"{path} is damaged; delete it, and its stage is done anew") from None


def write_jsonl(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Replace `path` by `rows`, at once; they are written as they come, so they may be made as they are asked for."""
    with replacing_jsonl(path) as write:
        for row in rows:
            write(row)


@contextmanager
def replacing_jsonl(path: Path) -> Iterator[Callable[[Mapping[str, Any]], object]]:
    """A function that writes a row; what it wrote takes the place of `path`, at once, when the block ends well."""
    with _replacing(path) as file:
        yield lambda row: file.write(json.dumps(row, ensure_ascii=False) + "\n")


@contextmanager
def _replacing(path: Path) -> Iterator[TextIO]:
    """A file that takes the place of `path` when all of it is on disk."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.tmp")
    with draft.open("w", encoding="utf-8", errors="surrogatepass") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)


def rows_at(path: Path, places: Iterable[int]) -> Iterator[Row]:
    """The rows of a JSONL file that begin at these bytes."""
    with path.open("rb") as file:
        for place in places:
            file.seek(place)
            yield json.loads(file.readline())


def placed_rows(path: Path) -> Iterator[tuple[int, Row]]:
    """The whole rows of a JSONL file of ours, each with the place of its first byte; none if it does not exist.

    Raises:
        UserError: A line but the last is not JSON.
    """
    if not path.exists():
        return
    place = 0
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if line.endswith(b"\n") and line.strip():
                try:
                    row = json.loads(line)
                except ValueError:
                    raise UserError(f"{path}:{number}: this line is damaged; start its stage over with --from") from None
                yield place, row
            place += len(line)


def _key(id: str) -> bytes:
    return id.encode("utf-8", "surrogatepass")


def _cut_torn_line(path: Path) -> None:
    """Cut off what stands behind the last end of a line."""
    if not path.exists():
        return
    with path.open("r+b") as file:
        end = size = file.seek(0, os.SEEK_END)
        while end > 0:
            start = max(0, end - 2**16)
            file.seek(start)
            place = file.read(end - start).rfind(b"\n")
            if place >= 0:
                end = start + place + 1
                break
            end = start
        if end < size:
            file.truncate(end)
