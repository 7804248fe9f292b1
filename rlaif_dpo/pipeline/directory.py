"""The run directory: what was asked, what happened, what is finished. Readable with `less`, safe under `kill -9`."""

import errno
import fcntl
import json
import os
import platform
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from rlaif_dpo.engines.store import STORE
from rlaif_dpo.errors import UserError
from rlaif_dpo.files import JsonlWriter, read_json, write_json

PACKAGES = (
    "rlaif-dpo", "torch", "transformers", "trl", "peft", "bitsandbytes", "datasets", "accelerate", "tokenizers", "safetensors",
    "vllm",
)  # fmt: skip
ROUNDS = "rounds.json"
"""In a folder of rounds: how they went, and which one is kept. Each round is a run directory of its own in that folder."""


@dataclass(frozen=True)
class StageRecord:
    """`stage.json` of a finished stage, `stage.started.json` of one that is not.

    Attributes:
        stage: The stage's name, e.g. `10-revise`.
        key: Hash of `ingredients`.
        ingredients: Everything the result depends on, by dotted name, so that a change can be said in words.
        started: When its first session began (ISO 8601, UTC).
        session: When its last session began.
        seconds: Time spent; in `stage.started.json`, that of the sessions before the last.
        finished: When it ended; None while it is not.
        counts: What it made and dropped.
        outputs: Its files, relative to the run directory.
    """

    stage: str
    key: str
    ingredients: dict[str, Any]
    started: str
    session: str
    seconds: float = 0.0
    finished: str | None = None
    counts: dict[str, int] = field(default_factory=dict)
    outputs: tuple[str, ...] = ()


@dataclass(frozen=True)
class RunDirectory:
    """`runs/<name>/` and what is in it."""

    path: Path

    def folder(self, stage: str) -> Path:
        return self.path / stage

    def finished(self, stage: str) -> StageRecord | None:
        """The record of a finished stage all of whose outputs are still there."""
        record = _read_record(self.folder(stage) / "stage.json")
        if record is None or any(not (self.path / output).exists() for output in record.outputs):
            return None
        return record

    def half(self, stage: str) -> StageRecord | None:
        """The record of a stage that was started and not finished."""
        return _read_record(self.folder(stage) / "stage.started.json")

    def begin(self, stage: str, key: str, ingredients: dict[str, Any]) -> StageRecord:
        """Write `stage.started.json`; a half-finished stage keeps its start and the seconds spent so far."""
        before, now = self.half(stage), _now()
        record = StageRecord(stage, key, ingredients, started=now, session=now)
        if before is not None:
            record = StageRecord(stage, key, ingredients, before.started, now, seconds=self.seconds_spent(before))
        write_json(self.folder(stage) / "stage.started.json", asdict(record))
        return record

    def reopen(self, done: StageRecord) -> None:
        """Make a finished stage a half-finished one that keeps its start, its rows and the seconds it took."""
        half = replace(done, session=_now(), finished=None, counts={}, outputs=())
        write_json(self.folder(done.stage) / "stage.started.json", asdict(half))
        (self.folder(done.stage) / "stage.json").unlink()

    def finish(self, record: StageRecord, seconds: float, counts: Mapping[str, int], outputs: tuple[str, ...]) -> StageRecord:
        """Write `stage.json`, at once, and take `stage.started.json` away."""
        done = StageRecord(
            record.stage, record.key, record.ingredients, record.started, record.session,
            round(record.seconds + seconds, 3), _now(), dict(counts), outputs,
        )  # fmt: skip
        write_json(self.folder(record.stage) / "stage.json", asdict(done))
        (self.folder(record.stage) / "stage.started.json").unlink(missing_ok=True)
        return done

    def seconds_spent(self, half: StageRecord) -> float:
        """Seconds spent on a half-finished stage; a killed session is taken to have lasted until the last file it wrote."""
        times = [file.stat().st_mtime for file in self.folder(half.stage).rglob("*") if file.is_file()]
        return round(half.seconds + max(0.0, max(times, default=0.0) - datetime.fromisoformat(half.session).timestamp()), 3)

    def discard(self, stage: str) -> None:
        """Remove all a stage made. Moved aside first, so that a kill leaves no folder that is half removed."""
        for stale in self.path.glob(f".{stage}.old-*"):
            shutil.rmtree(stale)
        if self.folder(stage).exists():
            aside = self.path / f".{stage}.old-{os.getpid()}"
            self.folder(stage).rename(aside)
            shutil.rmtree(aside)

    def event(self, event: str, stage: str | None = None, **facts: object) -> None:
        """Append one line to `events.jsonl`."""
        with JsonlWriter(self.path / "events.jsonl") as writer:
            writer.write({"time": _now(), "event": event} | ({"stage": stage} if stage else {}) | facts)

    def write_env(self, hardware: Mapping[str, Any]) -> None:
        """Write `env.json`: versions and hardware, nothing of the shell's environment."""
        software = {"python": platform.python_version(), "platform": platform.platform(), "versions": package_versions()}
        write_json(self.path / "env.json", software | dict(hardware))

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the run for this process.

        Raises:
            UserError: Another process writes it. The system frees the lock of a process that died.
        """
        with (self.path / ".lock").open("a+") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                file.seek(0)
                holder = file.read().strip() or "unknown"
                raise UserError(
                    f"{self.path}: process {holder} is writing this run; wait for it, stop it, or give the run another name=..."
                ) from None
            file.truncate(0)
            os.write(file.fileno(), str(os.getpid()).encode())
            yield


def create(path: Path) -> RunDirectory:
    """The run directory at `path`, made if need be.

    Raises:
        UserError: It cannot be made or written.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        probe = path / f".probe-{os.getpid()}"
        probe.touch()
        probe.unlink()
    except (PermissionError, NotADirectoryError, FileExistsError) as error:
        raise unwritable(path, error) from None
    except OSError as error:
        raise disk_full(path, error) or unwritable(path, error) from None
    return RunDirectory(path)


def is_rounds(path: Path) -> bool:
    """Whether `path` is a folder of rounds and not a run directory."""
    return (path / ROUNDS).exists()


def round_folders(path: Path) -> list[Path]:
    """The run directories of the rounds in `path` that were begun, in order."""
    return sorted((found.parent for found in path.glob("round-*/recipe.yaml")), key=lambda run: int(run.name.split("-")[1]))


def store_of(run: Path) -> Path:
    """Where the run keeps what was bought: beside it, or beside the rounds that it is one of."""
    return (run.parent.parent if is_rounds(run.parent) else run.parent) / STORE


def open_run(path: Path) -> RunDirectory:
    """The run directory at `path`, which must be one; of a folder of rounds, the one that is kept.

    Raises:
        UserError: There is no run, or no round is finished.
    """
    if is_rounds(path):
        if (best := read_json(path / ROUNDS)["best"]) is None:
            raise UserError(f"{path}: no round is finished yet; go on with `rlaif-dpo run {path / 'recipe.yaml'}`")
        return RunDirectory(path / f"round-{best}")
    if not (path / "recipe.yaml").exists():
        raise UserError(f"{path}: no run here (no recipe.yaml); give a folder that `rlaif-dpo run` made, e.g. runs/quickstart")
    return RunDirectory(path)


def unwritable(path: Path, error: OSError) -> UserError:
    return UserError(f"{path}: cannot be written ({error.strerror or error}); choose another folder with --root")


def disk_full(path: Path, error: BaseException) -> UserError | None:
    """The error to show when `error`, or what caused it, is a full disk; else None."""
    cause: BaseException | None = error
    while cause is not None:
        if getattr(cause, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or "No space left on device" in str(cause):
            return UserError(f"{path}: disk full, nothing is lost; free space and run the same command to go on")
        cause = cause.__cause__ or cause.__context__
    return None


def package_versions() -> dict[str, str]:
    """The installed versions of what a result depends on."""
    found = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def _read_record(path: Path) -> StageRecord | None:
    if not path.exists():
        return None
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
        return StageRecord(**fields | {"outputs": tuple(fields["outputs"])})
    except (ValueError, TypeError, KeyError):
        raise UserError(f"{path} is damaged; delete it, and its stage is done anew") from None


def _now() -> str:
    return datetime.fromtimestamp(time.time(), UTC).isoformat(timespec="milliseconds")
