"""benchmarks/gpu.py waits for a card; at toy size it runs here, whole."""

import os
from pathlib import Path

import pytest

from tests.children import run_here

ROOT = Path(__file__).parents[1]


@pytest.mark.slow
def test_every_method_is_measured_at_toy_size() -> None:
    call = ["python", "benchmarks/gpu.py", "--toy", "--device", "cpu", "--models", "1.5b", "--lengths", "64"]
    code, printed = run_here(call, ROOT, os.environ, timeout_s=300)
    assert code == 0, printed[-2000:]
    table = [[cell.strip() for cell in line.split("|")[1:-1]] for line in printed.splitlines() if line.startswith("| 1.5b")]
    assert [row[1] for row in table] == ["sft", "dpo", "stock-dpo", "reward"]
    for row in table:
        peak, plan, seconds = float(row[4]), float(row[5]), float(row[7])
        assert peak > 0 and plan > 0 and seconds > 0
