import re

import pytest
from rich.console import Console
from rich.progress import Progress as Bars

from rlaif_dpo.cli import progress
from rlaif_dpo.cli.progress import Meter, PlainProgress, RichProgress, duration


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """A clock that stands still until a test moves it."""
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def test_rates_count_this_session_alone(clock: list[float]):
    """100 of 200 rows were there. 20 more in 10 s are 2 rows/s; the other 80 take 40 s. 500 tokens in 10 s are 50 tokens/s."""
    meter = Meter("drafts", total=200, done=100)
    assert meter.left() == ""
    clock[0] += 10
    meter.add(20, 500)
    assert meter.rate() == "2.0 rows/s, 50 tokens/s"
    assert meter.left() == ", 0:40 left"
    assert meter.summary() == "drafts: 120 of 200 rows, 0:10, 2.0 rows/s, 50 tokens/s"


def test_plain_lines_come_every_few_seconds(clock: list[float], capsys: pytest.CaptureFixture[str]):
    with PlainProgress().task("drafts", 40) as task:
        for _ in range(40):
            clock[0] += 0.5
            task.advance()
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "drafts: 10 of 40 rows, 2.0 rows/s, 0:15 left"
    assert len(lines) == 5  # after 5, 10, 15 and 20 s, and at the end
    assert lines[-1] == "drafts: 40 of 40 rows, 0:20, 2.0 rows/s"


def test_a_task_with_nothing_left_says_nothing(capsys: pytest.CaptureFixture[str]):
    with PlainProgress().task("drafts", 5, done=5):
        pass
    assert capsys.readouterr().err == ""


def test_bars_fit_80_columns_and_end_as_a_line():
    console = Console(force_terminal=True, width=80, record=True, color_system=None)
    with Bars(*progress.columns(), console=console, transient=True) as bars:
        shown = RichProgress(bars)
        with shown.task("round 4 of 4: revisions", 12345) as task:
            task.advance(1, 20)
            bars.refresh()
        shown.say("a [bold]sentence[/bold] from a model")
    text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", console.export_text())
    assert "round 4 of 4: revisions: 1 of 12345 rows" in text
    assert "a [bold]sentence[/bold] from a model" in text


@pytest.mark.parametrize(("seconds", "text"), [(7.4, "0:07"), (750, "12:30"), (3723, "1:02:03")])
def test_durations(seconds: float, text: str):
    assert duration(seconds) == text
