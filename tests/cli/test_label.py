import io
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from rlaif_dpo.cli import label as verb
from rlaif_dpo.cli.label import WIDTH, ask_in_terminal
from rlaif_dpo.files import read_jsonl, write_jsonl
from rlaif_dpo.judges.base import Comparison, Criterion
from rlaif_dpo.judges.human import HumanJudge
from rlaif_dpo.judges.labels import read_labels, side_drawn
from rlaif_dpo.messages import user
from tests.cli.conftest import Cli

PAIRS = [Comparison(f"p{n}", (user(f"Question {n}?"),), f"good {n}", f"bad {n}", ()) for n in range(6)]


def ask(monkeypatch: pytest.MonkeyPatch, path: Path, keys, pairs=PAIRS, **more) -> tuple[int, str]:
    """Answer with `keys` (a KeyboardInterrupt among them is raised); what was answered, and what was on the screen."""
    left = iter(keys)

    def typed(prompt: str = "") -> str:
        key = next(left, None)
        if key is None:
            raise EOFError
        if key is KeyboardInterrupt:
            raise KeyboardInterrupt
        return key

    monkeypatch.setattr("builtins.input", typed)
    console = Console(file=io.StringIO(), width=WIDTH, highlight=False)
    try:
        answered = ask_in_terminal(pairs, console, path, **more)
    finally:
        screen = console.file.getvalue()
    return answered, screen


def test_keys_mean_what_is_on_the_screen(monkeypatch, tmp_path):
    """`1` for all: the label names the reply that stood first; both sides are drawn. The labels are what `HumanJudge` reads."""
    answered, screen = ask(monkeypatch, tmp_path / "l.jsonl", ["1"] * 6)
    assert answered == 6 and "1 of 6" in screen and "6 of 6" in screen
    shown = [line.split()[0] for line in screen.splitlines() if line.startswith(("  good", "  bad"))]
    labels = [row["label"] for row in read_jsonl(tmp_path / "l.jsonl")]
    assert labels == ["a" if word == "good" else "b" for word in shown[::2]] and set(labels) == {"a", "b"}
    ps = [judgment.p for judgment in HumanJudge(read_labels(str(tmp_path / "l.jsonl"))).compare(PAIRS)]
    assert ps == [0.0 if side_drawn(pair, 0) else 1.0 for pair in PAIRS]


def test_equal_skip_quit_and_words(monkeypatch, tmp_path):
    path = tmp_path / "l.jsonl"
    answered, screen = ask(monkeypatch, path, ["=", "", "x", "skip", " 2 ", "Q"])
    assert answered == 2 and next(read_jsonl(path))["label"] == "tie"
    assert [row["id"] for row in read_jsonl(path)] == ["p0", "p2"] and screen.count("Which reply is better?") == 4
    answered, screen = ask(monkeypatch, path, ["1", "1", "1", "1"])  # the skipped one comes again
    assert answered == 4 and [row["id"] for row in read_jsonl(path)] == ["p0", "p2", "p1", "p3", "p4", "p5"]
    assert ask(monkeypatch, path, [])[0] == 0


def test_nothing_is_lost_by_ctrl_c(monkeypatch, tmp_path):
    path = tmp_path / "l.jsonl"
    with pytest.raises(KeyboardInterrupt):
        ask(monkeypatch, path, ["1", "2", KeyboardInterrupt])
    assert [row["id"] for row in read_jsonl(path)] == ["p0", "p1"]
    _, screen = ask(monkeypatch, path, ["q"])
    assert "3 of 6" in screen and "Question 2?" in screen


def test_each_annotator_has_a_round_of_their_own(monkeypatch, tmp_path):
    path = tmp_path / "l.jsonl"
    ask(monkeypatch, path, ["1"] * 6, annotator="Ann")
    assert ask(monkeypatch, path, ["="] * 6, annotator="Bob")[0] == 6
    (judgment, *_) = HumanJudge(read_labels(str(path))).compare(PAIRS)
    assert judgment.p in (0.25, 0.75) and [member.judge for member in judgment.members] == ["Ann", "Bob"]


def test_no_line_is_wider_than_80_and_no_text_commands_the_terminal(monkeypatch, tmp_path):
    nasty = "\x1b[2J\x1b]0;title\x07" + "word " * 60 + "你好" * 90 + "x" * 200 + "[bold]b[/bold] :smile:"
    pair = Comparison("n", (user(nasty),), nasty, "short", (Criterion("kind", "Which is kinder, " * 9),))
    _, screen = ask(monkeypatch, tmp_path / "l.jsonl", ["q"], [pair])
    from rich.cells import cell_len

    assert max(map(cell_len, screen.splitlines())) <= WIDTH
    assert "\x1b" not in screen and "\x07" not in screen and "[bold]b[/bold] :smile:" in screen.replace("\n  ", "")
    assert "Which is kinder" in screen


@pytest.fixture
def source(tmp_path: Path) -> Path:
    write_jsonl(
        tmp_path / "set.jsonl", [{"prompt": f"Question {n}?", "chosen": f"good {n}", "rejected": f"bad {n}"} for n in range(8)]
    )
    return tmp_path / "set.jsonl"


def test_the_verb_takes_a_file_or_a_run(cli: Cli, source: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("builtins.input", lambda prompt="": "=")
    ended = cli("label", str(source), "--count", "3")
    assert (ended.code, len(list(read_jsonl(source.parent / "labels.jsonl")))) == (0, 3)
    assert f"The labels are in {source.parent / 'labels.jsonl'}" in ended.out
    run = source.parent / "run"
    write_jsonl(run / "30-pairs" / "preferences.jsonl", read_jsonl(source))
    assert cli("label", str(run), "--out", str(source.parent / "mine.jsonl")).code == 0
    assert len(list(read_jsonl(source.parent / "mine.jsonl"))) == 8
    ended = cli("label", str(source.parent / "nowhere.jsonl"))
    assert ended.code == 2 and "There is no file" in ended.err
    (source.parent / "empty").mkdir()
    assert "has no preferences yet" in cli("label", str(source.parent / "empty")).err


def test_the_verb_writes_a_sheet(cli: Cli, source: Path):
    sheet = source.parent / "sheet.csv"
    ended = cli("label", str(source), "--sheet", str(sheet))
    assert ended.code == 0 and f"{sheet}: 8 pairs" in ended.out and not (source.parent / "labels.jsonl").exists()
    assert sheet.read_text().count("Question") == 8


def test_ctrl_c_ends_the_verb_with_130(cli: Cli, source: Path, monkeypatch: pytest.MonkeyPatch):
    keys = iter(["1", "2"])

    def typed(prompt: str = "") -> str:
        try:
            return next(keys)
        except StopIteration:
            raise KeyboardInterrupt from None

    monkeypatch.setattr("builtins.input", typed)
    ended = cli("label", str(source))
    assert ended.code == 130 and "goes on where you stopped" in ended.out
    assert len(list(read_jsonl(source.parent / "labels.jsonl"))) == 2


@pytest.mark.slow
def test_a_real_sigint_loses_nothing(source: Path):
    program = "from rlaif_dpo.cli import main; main()"
    command = [sys.executable, "-c", program, "label", str(source)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as child:
        assert child.stdin is not None and child.stdout is not None
        child.stdin.write("1\n=\n")
        child.stdin.flush()
        seen = ""
        while "3 of 8" not in seen:
            seen += child.stdout.read(1)
        child.send_signal(signal.SIGINT)
        _, err = child.communicate(timeout=60)
    assert (child.returncode, len(list(read_jsonl(source.parent / "labels.jsonl")))) == (130, 2), err
    assert "Traceback" not in err


def test_the_module_is_light():
    assert verb.__name__ == "rlaif_dpo.cli.label"
    code = "import sys; import rlaif_dpo.cli.label; print('torch' in sys.modules, 'rlaif_dpo.judges.labels' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.split() == ["False", "False"]
