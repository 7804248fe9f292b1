"""Work in processes of its own, forked from one that has imported the libraries: a start costs no import."""

import gc
import multiprocessing
import time
from collections.abc import Callable
from multiprocessing.context import ForkServerProcess

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


def _begin(work: Callable[..., None], *given: object) -> None:
    import torch

    gc.freeze()
    torch.set_num_threads(1)
    work(*given)
