"""Two processes (gloo, on the CPU) train what one does: the same weights, curve and verdict, each written once."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from accelerate.data_loader import SeedableRandomSampler

from rlaif_dpo.files import read_json, read_jsonl
from rlaif_dpo.pipeline.launch import CONFIGS
from rlaif_dpo.progress import Silent
from rlaif_dpo.recipe.training import Sft
from rlaif_dpo.train import micro_batch, processes
from rlaif_dpo.train.micro_batch import MEMORY, in_micro_batches
from rlaif_dpo.train.processes import EvenOrder, Restart, padding
from tests.train.test_micro_batch import distance
from tests.train.together import CASES

ROOT = Path(__file__).parents[2]
CLOSE = 2e-5
"""Adam divides a gradient by its own size, so the rounding of sums in another order comes out larger than it went in."""
STEPS = 4
"""Of an epoch, in every case."""


@pytest.fixture(scope="module")
def two(model_folder: Path, sft_adapter: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All cases in two processes."""
    folder = tmp_path_factory.mktemp("two")
    command = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(CONFIGS / "ddp.yaml")]
    command += ["--num_processes", "2", "--module", "tests.train.together", str(folder), str(model_folder), str(sft_adapter)]
    env = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=200)
    assert done.returncode == 0, done.stdout[-4000:]
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("name", list(CASES))
def test_two_processes_train_what_one_does(name: str, two: Path, model_folder: Path, sft_adapter: Path, tmp_path: Path) -> None:
    CASES[name](tmp_path, model_folder, sft_adapter)
    assert distance(two / name, tmp_path) < CLOSE
    curves = [list(read_jsonl(folder / "metrics.jsonl")) for folder in (two / name, tmp_path)]
    assert len(curves[0]) == len(curves[1]) > 3
    for ours, alone in zip(*curves, strict=True):
        assert ours.keys() == alone.keys()
        # What else is logged are means over micro-batches of means over their rows or tokens, and `epoch` counts micro-batches;
        # pairs have micro-batches of one size but in the last step of an epoch.
        full = name != "sft" and alone["step"] % STEPS
        same = alone.keys() - {"epoch"} if full else {"step", "lr", "loss", "grad_norm"}
        if alone["step"] <= 2:  # warming up: margins are 0 there but for rounding, and a rate of wins counts their signs
            same = {key for key in same if "accurac" not in key}
        assert {key: ours[key] for key in same} == pytest.approx({key: alone[key] for key in same}, abs=2e-4, nan_ok=True)
    for file in ("census.json", "health.json"):
        ours, alone = read_json(two / name / file), read_json(tmp_path / file)
        assert (ours is None) == (alone is None)
        if file == "census.json":
            assert ours == alone
        elif ours is not None:
            assert ours["status"] == alone["status"]
            assert [c["value"] for c in ours["checks"]] == pytest.approx([c["value"] for c in alone["checks"]], abs=1e-3)
    assert read_json(two / name / "adapter" / "rlaif_dpo.json") == read_json(tmp_path / "adapter" / "rlaif_dpo.json")
    assert {path.name for path in (two / name).iterdir()} == {path.name for path in tmp_path.iterdir()}


@pytest.mark.slow
def test_repeated_rows_would_have_changed_the_weights(two: Path) -> None:
    """The control: accelerate's own way to come out even trains something else, by far more than rounding."""
    assert distance(two / "repeating", two / "sft") > 20 * CLOSE


def test_the_order_is_that_of_one_process_and_then_the_padding() -> None:
    """13 rows in micro-batches of 2 for 2 processes: 3 more make 16, of which each has 8."""
    order, alone = EvenOrder(13, 3, seed=7), SeedableRandomSampler(range(13), data_seed=7)
    for epoch in (0, 1, 5):
        order.set_epoch(epoch)
        alone.set_epoch(epoch)
        assert list(order) == [*alone, 13, 14, 15]
    assert len(order) == 16


def test_a_process_alone_needs_no_padding(monkeypatch: pytest.MonkeyPatch) -> None:
    assert padding(13, 2) == 0
    monkeypatch.setattr(processes, "world_size", lambda: 2)
    assert [padding(rows, 2) for rows in (12, 13, 15, 16)] == [0, 3, 1, 0]


def test_memory_that_runs_out_in_one_of_two_has_all_begin_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A batch of 12 is 6 rows each. With room for 3 at once: 6 is refused, 3 is what all begin again with; they know it then."""
    monkeypatch.setattr(micro_batch, "world_size", lambda: 2)
    tried: list[object] = []

    def train(settings: Sft) -> None:
        tried.append(settings.micro_batch_size)
        if settings.rows_at_once > 3:
            raise RuntimeError("CUDA error: out of memory")

    with pytest.raises(Restart) as restart:
        in_micro_batches(train, Sft(batch_size=12), tmp_path, "key", "SFT", Silent())
    assert restart.value.found == {
        "key": "key", "micro_batch_size": 3, "accumulation": 2, "because": "the memory ran out with 6"
    }  # fmt: skip
    assert not (tmp_path / MEMORY).exists()
    micro_batch.keep_size(tmp_path, restart.value.found, "SFT", 12, Silent(), micro_batch.nobody)
    in_micro_batches(train, Sft(batch_size=12), tmp_path, "key", "SFT", Silent())
    assert tried == [6, 3]


def test_a_share_is_never_passed_in_parts_that_do_not_divide_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """`micro_batch_size: 8` of a batch of 24 does not divide the 12 rows of one of two processes: 6 does."""
    monkeypatch.setattr(micro_batch, "world_size", lambda: 2)
    tried: list[object] = []
    settings = Sft(batch_size=24, micro_batch_size=8)
    in_micro_batches(lambda s: tried.append(s.micro_batch_size), settings, tmp_path, "key", "SFT", Silent())
    assert tried == [6]
