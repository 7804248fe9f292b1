"""The judgment store: every call that was bought, content-addressed, in one SQLite file that runs share."""

import json
import os
import sqlite3
import threading
import uuid
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from errno import ENOSPC
from functools import lru_cache
from pathlib import Path
from typing import Any

from rlaif_dpo.engines.base import FINAL
from rlaif_dpo.engines.call import COLUMNS, Call, from_cells, to_cells
from rlaif_dpo.errors import UserError

STORE = "judgments.sqlite"
"""The file's usual name, in the folder of runs."""
VERSION = 1
SCHEMA = """
CREATE TABLE prompts (hash TEXT PRIMARY KEY, messages TEXT NOT NULL);
CREATE TABLE calls (
    key TEXT PRIMARY KEY, owner TEXT NOT NULL, base_url TEXT NOT NULL, model TEXT NOT NULL, prompt TEXT NOT NULL,
    parameters TEXT NOT NULL, sample INTEGER NOT NULL, outcome TEXT NOT NULL, text TEXT NOT NULL, reasoning TEXT,
    option_logprobs TEXT, mass REAL, finish_reason TEXT, error TEXT, prompt_tokens INTEGER NOT NULL,
    completion_tokens INTEGER NOT NULL, cached_tokens INTEGER NOT NULL, reasoning_tokens INTEGER NOT NULL,
    estimated INTEGER NOT NULL, cost_usd REAL, latency_s REAL NOT NULL, attempts INTEGER NOT NULL, created_at TEXT NOT NULL
);
CREATE TABLE leases (key TEXT PRIMARY KEY, pid INTEGER NOT NULL, born REAL NOT NULL, holder TEXT NOT NULL);
CREATE TABLE notes (name TEXT PRIMARY KEY, value TEXT NOT NULL);
"""
CALLS = f"SELECT {', '.join(f'calls.{name}' for name in COLUMNS)}, prompts.messages FROM calls JOIN prompts ON hash = prompt"
IS_FINAL = f"outcome IN ({', '.join(repr(outcome) for outcome in sorted(FINAL))})"
AT_ONCE = 500
"""Keys in one query."""

_holders: set[str] = set()
"""The open stores of this process; a lease under its pid by anyone else is of a dead process that had the same number."""


@dataclass(frozen=True)
class Summary:
    """What the store holds of one model. `cost_usd` sums the `priced` rows: those whose price was known."""

    base_url: str
    model: str
    rows: int
    outcomes: dict[str, int]
    tokens: int
    cost_usd: float
    priced: int
    first: str
    last: str


class CallStore:
    """Safe for several threads and several processes at once.

    A row is with the operating system when `put` returns: a killed process loses nothing; a power cut may lose the last moments.

    Args:
        path: The file; made if it is not there.

    Raises:
        UserError: The file is no store, or another version of rlaif-dpo wrote it.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._lock = threading.RLock()
        self._holder = uuid.uuid4().hex
        try:
            self._db = sqlite3.connect(self.path, timeout=60, isolation_level=None, check_same_thread=False)
            self._db.execute("PRAGMA journal_mode = WAL")
            self._db.execute("PRAGMA synchronous = NORMAL")
            with self._writing() as db:
                version = db.execute("PRAGMA user_version").fetchone()[0]
                if version == 0 and not db.execute("SELECT 1 FROM sqlite_master").fetchone():
                    for statement in SCHEMA.split(";"):  # executescript would end the transaction
                        db.execute(statement)
                    db.execute(f"PRAGMA user_version = {VERSION}")
                elif version != VERSION:
                    raise UserError(f"{self.path} is no judgment store of this version of rlaif-dpo: move it away")
        except sqlite3.DatabaseError as error:
            raise UserError(f"{self.path} cannot be used as a judgment store ({error}): move it away") from None
        _holders.add(self._holder)

    def close(self) -> None:
        """Give back what is claimed and close the file."""
        with self._writing() as db:
            db.execute("DELETE FROM leases WHERE holder = ?", (self._holder,))
        _holders.discard(self._holder)
        self._db.close()

    def get(self, keys: Iterable[str]) -> dict[str, Call]:
        """The calls there are, of any outcome, by key."""
        wanted, found = list(keys), dict[str, Call]()
        for start in range(0, len(wanted), AT_ONCE):
            some = wanted[start : start + AT_ONCE]
            found |= {call.key: call for call in self._select(f"WHERE key IN ({', '.join('?' * len(some))})", some)}
        return found

    def claim(self, key: str) -> Call | bool:
        """The finished call; or True: it is this store's to buy, until `put` or `release`; or False: someone else is buying it.

        The claim of a process that has died counts for nothing.
        """
        with self._writing() as db:
            if had := self._select(f"WHERE key = ? AND {IS_FINAL}", [key]):
                return had[0]
            lease = db.execute("SELECT pid, born, holder FROM leases WHERE key = ?", (key,)).fetchone()
            if lease is not None and _alive(*lease):
                return False
            mine = (key, os.getpid(), _born(os.getpid()), self._holder)
            db.execute("INSERT OR REPLACE INTO leases VALUES (?, ?, ?, ?)", mine)
            return True

    def release(self, key: str) -> None:
        """Give a claim back without a call."""
        with self._writing() as db:
            db.execute("DELETE FROM leases WHERE key = ? AND holder = ?", (key, self._holder))

    def put(self, call: Call) -> None:
        """Keep `call` and end the claim on it. A final outcome is never replaced."""
        cells, messages = to_cells(call)
        with self._writing() as db:
            if not db.execute(f"SELECT 1 FROM calls WHERE key = ? AND {IS_FINAL}", (call.key,)).fetchone():
                db.execute("INSERT OR IGNORE INTO prompts VALUES (?, ?)", (cells[COLUMNS.index("prompt")], messages))
                db.execute(f"INSERT OR REPLACE INTO calls VALUES ({', '.join('?' * len(COLUMNS))})", cells)
            db.execute("DELETE FROM leases WHERE key = ? AND holder = ?", (call.key, self._holder))

    def note(self, name: str) -> Any:
        """What was noted under `name` (JSON), or None."""
        with self._lock:
            row = self._db.execute("SELECT value FROM notes WHERE name = ?", (name,)).fetchone()
        return None if row is None else json.loads(row[0])

    def set_note(self, name: str, value: Any) -> None:
        """Keep a small fact, e.g. what an endpoint can do; None forgets it."""
        with self._writing() as db:
            db.execute("DELETE FROM notes WHERE name = ?", (name,))
            if value is not None:
                db.execute("INSERT INTO notes VALUES (?, ?)", (name, json.dumps(value)))

    def forget_notes(self) -> int:
        """Remove every note, and say how many."""
        with self._writing() as db:
            return db.execute("DELETE FROM notes").rowcount

    def summaries(self) -> list[Summary]:
        """One for each model, the most rows first."""
        outcomes: dict[tuple[str, str], dict[str, int]] = {}
        totals = (
            "SELECT base_url, model, COUNT(*), SUM(prompt_tokens + completion_tokens), TOTAL(cost_usd), COUNT(cost_usd),"
            " MIN(created_at), MAX(created_at) FROM calls GROUP BY base_url, model ORDER BY COUNT(*) DESC"
        )
        with self._lock:
            for url, model, outcome, rows in self._db.execute(
                "SELECT base_url, model, outcome, COUNT(*) FROM calls GROUP BY base_url, model, outcome"
            ):
                outcomes.setdefault((url, model), {})[outcome] = rows
            return [
                Summary(url, model, rows, outcomes[url, model], tokens, usd, priced, first, last)
                for url, model, rows, tokens, usd, priced, first, last in self._db.execute(totals)
            ]

    def find(self, prefix: str) -> list[Call]:
        """The calls whose key or owner begins with `prefix`."""
        where = "WHERE substr(key, 1, length(?1)) = ?1 OR substr(owner, 1, length(?1)) = ?1 ORDER BY owner, sample"
        return self._select(where, [prefix])

    def export(self) -> Iterator[dict[str, Any]]:
        """Every call as a JSON row, the oldest first."""
        with self._lock:
            keys = [row[0] for row in self._db.execute("SELECT key FROM calls ORDER BY created_at, rowid")]
        for start in range(0, len(keys), AT_ONCE):
            found = self.get(some := keys[start : start + AT_ONCE])
            yield from (found[key].as_row() for key in some if key in found)

    def prune(
        self, model: str | None = None, older_than_days: float | None = None, failed: bool = False, dry_run: bool = False
    ) -> int:
        """Remove the calls that meet every criterion given, and say how many.

        Args:
            model: Of this model.
            older_than_days: Bought longer ago.
            failed: Without a final outcome; they would be asked again anyway.
            dry_run: Count them only.
        """
        where, values = ["1"], list[str]()
        if model is not None:
            where.append("model = ?")
            values.append(model)
        if older_than_days is not None:
            where.append("created_at < ?")
            values.append((datetime.now(UTC) - timedelta(days=older_than_days)).isoformat(timespec="milliseconds"))
        if failed:
            where.append(f"NOT {IS_FINAL}")
        with self._writing() as db:
            if dry_run:
                return int(db.execute(f"SELECT COUNT(*) FROM calls WHERE {' AND '.join(where)}", values).fetchone()[0])
            removed = db.execute(f"DELETE FROM calls WHERE {' AND '.join(where)}", values).rowcount
            db.execute("DELETE FROM prompts WHERE hash NOT IN (SELECT prompt FROM calls)")
            return removed

    def _select(self, where: str, values: Sequence[Any]) -> list[Call]:
        with self._lock:
            return [from_cells(row) for row in self._db.execute(f"{CALLS} {where}", values)]

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        """A transaction that nobody else can come between."""
        with self._lock:
            try:
                self._db.execute("BEGIN IMMEDIATE")
                yield self._db
                self._db.execute("COMMIT")
            except sqlite3.OperationalError as error:
                if "full" in str(error):
                    raise OSError(ENOSPC, "No space left on device", str(self.path)) from error
                raise
            finally:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")


@lru_cache(maxsize=1)
def _born(pid: int) -> float:
    """When this process began. Its number is an argument because a fork changes both."""
    import psutil

    return float(psutil.Process(pid).create_time())


def _alive(pid: int, born: float, holder: str) -> bool:
    """Whether the process that took a lease still runs: same number, same birth, no zombie."""
    if pid == os.getpid():
        return holder in _holders
    import psutil

    try:
        process = psutil.Process(pid)
        return bool(abs(process.create_time() - born) < 1 and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
