"""No test talks to the network: set before any test module imports a library that reads these."""

import gc
import os
import signal
import threading
from pathlib import Path

import pytest

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
os.environ["HF_DATASETS_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

if "PYTEST_XDIST_WORKER" in os.environ:  # the workers share the cores; torch would start as many threads in each of them
    os.environ["OMP_NUM_THREADS"] = "1"

os.fsync = lambda fd: None  # nobody pulls the plug here, and what a killed process wrote is there without it

# What is started in the background ignores Ctrl-C, and so would the programs that the tests start and interrupt.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN and threading.current_thread() is threading.main_thread():
    signal.signal(signal.SIGINT, signal.default_int_handler)

LONGEST = (
    "test_quickstart.py", "test_readme.py", "test_quickstart_without.py", "test_notebooks.py", "train/test_micro_batch.py",
    "pipeline/test_kill.py", "engines/endpoint/test_servers.py", "engines/endpoint/test_bars.py", "sandbox/test_model.py",
    "train/test_grpo.py", "pipeline/test_rounds.py", "evaluate/test_depth.py", "models/test_memory.py", "test_real_input.py",
    "train/test_ppo.py", "test_nf4.py", "pipeline/test_attribute.py", "pipeline/test_people.py", "cli/test_probe.py",
    "test_gpu_benchmark.py", "test_wheel.py", "pipeline/test_endpoints.py", "judges/rules/test_run_code.py",
)  # fmt: skip
"""They go first: a long file that begins last has all the other workers wait for it (the Makefile keeps xdist to this order)."""


def pytest_collection_finish() -> None:
    """Every training ends with a search for garbage, a third of a second of it among what the imports have made."""
    gc.collect()
    gc.freeze()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    places = {Path(__file__).parent / name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.path, len(places)))
