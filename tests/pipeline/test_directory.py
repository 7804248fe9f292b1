import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from rlaif_dpo.errors import UserError
from rlaif_dpo.pipeline.directory import RunDirectory, create, disk_full, open_run

HOLD = "import sys; from pathlib import Path; from rlaif_dpo.pipeline.directory import RunDirectory\n"


def test_two_processes_cannot_write_one_run(tmp_path: Path):
    code = HOLD + f"with RunDirectory(Path({str(tmp_path)!r})).lock(): print('held', flush=True); sys.stdin.read()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None and holder.stdout.readline() == "held\n"
        with pytest.raises(UserError, match=f"process {holder.pid} is writing this run"), RunDirectory(tmp_path).lock():
            pass
        holder.kill()
    with RunDirectory(tmp_path).lock():  # the system frees the lock of a dead process
        pass


def test_a_stage_is_finished_only_with_all_its_outputs(tmp_path: Path):
    directory = RunDirectory(tmp_path)
    record = directory.begin("10-revise", "k", {"a": 1})
    assert directory.half("10-revise") == record
    assert directory.finished("10-revise") is None
    (tmp_path / "out.jsonl").touch()
    done = directory.finish(record, 1.5, {"rows": 3}, ("out.jsonl",))
    assert directory.half("10-revise") is None
    assert directory.finished("10-revise") == done
    assert (done.seconds, done.counts, done.ingredients) == (1.5, {"rows": 3}, {"a": 1})
    (tmp_path / "out.jsonl").unlink()
    assert directory.finished("10-revise") is None


def test_a_killed_session_counts_until_its_last_file(tmp_path: Path):
    """The session began at t; its last file was written at t + 40. The next session starts with 40 seconds spent."""
    directory = RunDirectory(tmp_path)
    record = directory.begin("10-revise", "k", {})
    from datetime import datetime

    start = datetime.fromisoformat(record.session).timestamp()
    rows = directory.folder("10-revise") / "rows.jsonl"
    rows.touch()
    os.utime(rows, (start + 40, start + 40))
    again = directory.begin("10-revise", "k", {})
    assert again.started == record.started
    assert again.seconds == pytest.approx(40, abs=0.01)
    assert directory.finish(again, 2.0, {}, ()).seconds == pytest.approx(42, abs=0.01)


def test_discard_leaves_nothing_and_clears_what_a_kill_left(tmp_path: Path):
    directory = RunDirectory(tmp_path)
    directory.begin("10-revise", "k", {})
    (tmp_path / ".10-revise.old-1").mkdir()
    directory.discard("10-revise")
    assert list(tmp_path.iterdir()) == []


def test_env_has_versions_and_hardware_and_no_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    RunDirectory(tmp_path).write_env({"device": "cpu", "dtype": "float32"})
    text = (tmp_path / "env.json").read_text()
    assert "hf_secret" not in text
    assert json.loads(text)["versions"]["torch"]


def test_a_folder_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def refuse(self: Path, *args: object, **kwargs: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system", str(self))

    monkeypatch.setattr(Path, "touch", refuse)
    with pytest.raises(UserError, match="cannot be written .Read-only file system.; choose another folder with --root"):
        create(tmp_path / "run")


def test_a_file_where_the_run_should_be(tmp_path: Path):
    (tmp_path / "run").touch()
    with pytest.raises(UserError, match="cannot be written"):
        create(tmp_path / "run")


def test_a_full_disk_is_known_through_other_errors():
    cause = RuntimeError("I/O error: No space left on device (os error 28)")
    outer = ValueError("could not save")
    outer.__cause__ = cause
    assert "disk full" in str(disk_full(Path("runs/x"), outer))
    assert disk_full(Path("runs/x"), ValueError("other")) is None


def test_no_run_there(tmp_path: Path):
    with pytest.raises(UserError, match="no run here"):
        open_run(tmp_path)
