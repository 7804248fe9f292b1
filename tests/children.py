"""Work in processes of its own, forked from one that has imported the libraries: a start costs no import."""

import gc
import multiprocessing
import os
import runpy
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from tempfile import NamedTemporaryFile

LIBRARIES = (
    "pytest", "openai", "torch", "transformers", "peft", "rlaif_dpo.cli", "rlaif_dpo.pipeline", "rlaif_dpo.train.trl_adapter",
)  # fmt: skip

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(list(LIBRARIES))


def start(work: Callable[..., None], *given: object) -> ForkServerProcess:
    """`work(*given)`, on one thread. It goes on by itself: the caller joins or kills it."""
    child = _context.Process(target=_begin, args=(work, *given))
    child.start()
    return child


def finish(child: ForkServerProcess) -> None:
    child.join()
    assert child.exitcode == 0


def kill_once(child: ForkServerProcess, ready: Callable[[], bool]) -> None:
    """SIGKILL at the first instant at which `ready()`; the child must live until then."""
    while not ready():
        assert child.is_alive(), "it ended before it could be killed"
        time.sleep(0.002)
    child.kill()
    child.join()
    assert child.exitcode == -9


def run_here(words: Sequence[str], folder: Path, env: Mapping[str, str], timeout_s: float) -> tuple[int | None, str]:
    """What a shell in `folder` does with `rlaif-dpo ...` or `python ...`: the exit code, and what both its streams printed."""
    with NamedTemporaryFile() as printed:
        child = start(_program, list(words), str(folder), dict(env), printed.name)
        child.join(timeout_s)
        child.kill()
        child.join()
        return child.exitcode, Path(printed.name).read_text(encoding="utf-8")


def _program(words: Sequence[str], folder: str, env: Mapping[str, str], printed: str) -> None:
    from rlaif_dpo.cli import main

    os.chdir(folder)
    os.environ.clear()
    os.environ.update(env)
    with open(printed, "wb") as file:
        for stream in (1, 2):
            os.dup2(file.fileno(), stream)
    match words:
        case ["rlaif-dpo", *given]:
            main(given)
        case ["python", "-c", code]:
            exec(code, {"__name__": "__main__"})
        case ["python", "-m", module, *_]:
            sys.argv = list(words[2:])
            runpy.run_module(module, run_name="__main__", alter_sys=True)
        case ["python", script, *_]:
            sys.argv = list(words[1:])
            sys.path.insert(0, str(Path(script).parent))
            runpy.run_path(script, run_name="__main__")


def _begin(work: Callable[..., None], *given: object) -> None:
    import torch

    gc.freeze()
    torch.set_num_threads(1)
    work(*given)
