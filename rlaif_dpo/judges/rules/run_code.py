"""Untrusted Python with a time limit: does the code pass its tests?"""

import json
import os
import secrets
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import IO, Literal

import psutil

from rlaif_dpo.errors import UserError

GUARD = Path(__file__).with_name("guard.py")
POLL_S = 0.02
KILL_ROUNDS = 500
END_S = 5.0
TAIL = 2000
Ended = Literal["exit", "time", "memory", "processes"]


@dataclass(frozen=True)
class Limits:
    """What a program may take: wall time, memory (of each process and of all), processes at once, printed text and file size."""

    timeout_s: float = 5.0
    memory_mb: int = 512
    processes: int = 16
    output_kb: int = 1024


@dataclass(frozen=True)
class CodeRun:
    """How it ended.

    Attributes:
        passed: The end of the tests was reached.
        ended: "exit" by itself (or by a kernel limit), or the limit for which it was killed.
        exit_code: Of the program; 128 + the signal that ended it. None if it was killed for a limit.
        output: The end of what it printed, stderr included.
        seconds: Wall time.
    """

    passed: bool
    ended: Ended
    exit_code: int | None
    output: str
    seconds: float


def run_code(code: str, tests: str, limits: Limits = Limits(), python: str = sys.executable) -> CodeRun:
    """Run `code`, then `tests` in the same namespace, and see whether they reach their end.

    What holds the program: rlimits (CPU, address space, file size, open files, tasks), a session of its own, an empty
    environment, a temporary folder, the standard library only, stdin at its end, no capabilities; for root also the user
    nobody, if nobody may read the interpreter. Where the kernel allows namespaces, it has no network, sees no other process,
    and can write to a few megabytes of memory in place of its folder and nowhere else. Processes and memory are counted from
    outside 50 times a second. At the end, and at any limit, all its processes are killed, also those that left their session.

    What it is not: a security boundary. The kernel is shared, and the program reads what its user may read. Where namespaces are
    not allowed, as in many containers, it has the network, writes where its user may write, as root if it could not become
    nobody, and can fill the disk with many small files. Code and tests share an interpreter: leaving early is no pass, but code
    written against the tests can cheat them (overload `==`, look into the caller's frames). The time is wall time: on a busy
    machine code that is right may come too late. For code that means harm put the whole run into a virtual machine.

    Args:
        code: Python source; `__name__` is not `__main__` in it.
        tests: Python source that raises if the code is wrong.
        limits: What it may take.
        python: The interpreter.

    Raises:
        UserError: This is not Linux.
    """
    if sys.platform != "linux":
        raise UserError("A check of kind `code` needs Linux; leave it out here")
    token = secrets.token_hex(16)
    given = {
        "cpu_s": ceil(limits.timeout_s) + 1,
        "memory": limits.memory_mb << 20,
        "processes": limits.processes,
        "output": limits.output_kb << 10,
    }
    start = time.monotonic()
    with (
        tempfile.TemporaryDirectory(prefix="rlaif-dpo-", ignore_cleanup_errors=True) as folder,
        tempfile.TemporaryFile() as output,
    ):
        guard = subprocess.Popen(
            [python, "-I", "-S", "-B", str(GUARD), json.dumps(given)],
            cwd=folder,
            env={},
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            _send(guard, json.dumps({"code": code, "tests": tests, "token": token}))
            ended = _watch(guard, limits, start + limits.timeout_s)
        finally:
            _kill(guard)
        text = _tail(output)
    passed = ended == "exit" and guard.returncode == 0 and token in text
    exit_code = guard.returncode if ended == "exit" else None
    return CodeRun(passed, ended, exit_code, text.replace(token, ""), time.monotonic() - start)


def _send(guard: subprocess.Popen[bytes], job: str) -> None:
    assert guard.stdin is not None
    with suppress(BrokenPipeError), guard.stdin as pipe:  # a guard that ended before it read tells so by its exit code
        pipe.write(job.encode())


def _watch(guard: subprocess.Popen[bytes], limits: Limits, deadline: float) -> Ended:
    pause = 0.002
    while not _ended(guard):
        if time.monotonic() > deadline:
            return "time"
        program = _below(guard.pid)[1:]
        if len(program) > limits.processes:
            return "processes"
        if sum(_memory(process) for process in program) > limits.memory_mb << 20:
            return "memory"
        time.sleep(pause)
        pause = min(2 * pause, POLL_S)
    return "exit"


def _below(guard: int) -> list[psutil.Process]:
    """Its only child, the keeper, then the program and all that the program started."""
    try:
        below: list[psutil.Process] = psutil.Process(guard).children(recursive=True)
        return below
    except psutil.NoSuchProcess:
        return []


def _memory(process: psutil.Process) -> int:
    try:
        return int(process.memory_info().rss)
    except psutil.Error:
        return 0


def _kill(guard: subprocess.Popen[bytes]) -> None:
    """End everything, and see it ended.

    A process namespace dies with its first process, the keeper. Without one the program goes first, while the keeper still adopts
    its orphans. Then keeper and guard end by themselves; their session is swept in case the program got at them.
    """
    below = _below(guard.pid)
    for _ in range(KILL_ROUNDS):
        if len(below) < 2 or _in_namespace(below[0]):
            break
        for process in below[1:]:
            _strike(process, guard.pid)
        below = _below(guard.pid)
    for keeper in below[:1]:
        with suppress(psutil.Error):
            keeper.kill()
    deadline = time.monotonic() + END_S
    while not _ended(guard) and time.monotonic() < deadline:
        time.sleep(0.002)
    for process in psutil.process_iter():
        if process.pid != guard.pid:
            _strike(process, guard.pid, only_session=True)
    guard.kill()
    guard.wait()


def _ended(guard: subprocess.Popen[bytes]) -> bool:
    """Whether the guard has ended. It stays a zombie: its number, which is that of its session, is not given away."""
    return os.waitid(os.P_PID, guard.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def _in_namespace(process: psutil.Process) -> bool:
    try:
        return os.stat(f"/proc/{process.pid}/ns/pid").st_ino != os.stat("/proc/self/ns/pid").st_ino
    except OSError:
        return False


def _strike(process: psutil.Process, session: int, only_session: bool = False) -> None:
    """Kill a process, and its group at once if that is one of `session`: a group cannot outrun the signal by forking."""
    with suppress(ProcessLookupError, PermissionError, psutil.Error):  # it ended meanwhile
        if os.getsid(process.pid) == session:
            os.killpg(os.getpgid(process.pid), signal.SIGKILL)
        elif not only_session:
            process.kill()


def _tail(output: IO[bytes]) -> str:
    size = output.seek(0, os.SEEK_END)
    output.seek(max(0, size - TAIL))
    return output.read().decode("utf-8", "replace")
