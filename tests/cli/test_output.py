"""How tables are printed."""

import os
import subprocess
import sys

import pytest

from rlaif_dpo.cli.output import print_table

ROWS = [("name", "a sentence of more than twenty columns, which a narrow terminal has to break somewhere"), ("b", None)]


def test_a_pipe_gets_a_line_a_row(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(ROWS)
    assert capsys.readouterr().out.splitlines() == [f"name  {ROWS[0][1]}", "b"]


def test_a_terminal_gets_the_last_column_wrapped() -> None:
    pty = pytest.importorskip("pty")
    ours, theirs = pty.openpty()
    code = f"from rlaif_dpo.cli.output import print_table; print_table({ROWS!r})"
    subprocess.run([sys.executable, "-c", code], stdout=theirs, check=True, env={**os.environ, "COLUMNS": "40"})
    os.close(theirs)
    first, *more, last = os.read(ours, 10_000).decode().splitlines()
    os.close(ours)
    assert last == "b"
    assert len(more) >= 2
    assert max(map(len, (first, *more))) <= 40
    assert all(line.startswith(" " * len("name  ") + line.strip()[0]) for line in more)
    assert " ".join(line.strip() for line in (first, *more)).split() == ["name", *str(ROWS[0][1]).split()]
