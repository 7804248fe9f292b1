"""What one process trains, and what several train together: `python -m tests.train.together FOLDER MODEL SFT_ADAPTER`."""

import sys
from collections.abc import Callable
from pathlib import Path

from rlaif_dpo.models.load import load_model
from rlaif_dpo.progress import Silent
from rlaif_dpo.recipe.schema import Model
from rlaif_dpo.recipe.training import Dpo, Sft
from rlaif_dpo.train import trl_adapter
from rlaif_dpo.train.dpo import run_dpo
from rlaif_dpo.train.processes import is_main, wait_for_all, world_size
from rlaif_dpo.train.sft import run_sft
from tests.train.conftest import LORA, preference_rows, sft_rows, written

SFT = Sft(batch_size=4, micro_batch_size=1, lr=1e-3, epochs=2, save_steps=3)
DPO = Dpo(batch_size=8, micro_batch_size=2, lr=1e-3, epochs=2, nll=0.1, save_steps=2)
Case = Callable[[Path, Path, Path], None]


def sft(folder: Path, model: Path, adapter: Path) -> None:
    """13 rows in batches of 4: in the last step of an epoch one of two processes has a row, the other none."""
    run_sft(rows(folder / "r.jsonl"), load_model(Model(path=str(model))), LORA, SFT, folder, 0, Silent())


def dpo(folder: Path, model: Path, adapter: Path) -> None:
    """30 pairs, 3 held out, 27 in batches of 8: the last step has 3, in micro-batches of 2 for two processes."""
    run_dpo(pairs(folder / "p.jsonl"), load_model(Model(path=str(model))), adapter, DPO, folder, 0, Silent())


def quantized(folder: Path, model: Path, adapter: Path) -> None:
    """4 bits, layers recomputed, the micro-batch found by trial."""
    loaded = load_model(Model(path=str(model), quantization="nf4"))
    settings = DPO.model_copy(update={"micro_batch_size": "auto", "gradient_checkpointing": True, "loss": "hard", "epochs": 1})
    run_dpo(pairs(folder / "p.jsonl"), loaded, adapter, settings, folder, 0, Silent())


def repeating(folder: Path, model: Path, adapter: Path) -> None:
    """The control: `sft` without padding, so that accelerate repeats rows to come out even."""
    original = trl_adapter.padding
    trl_adapter.padding = lambda rows, micro: 0  # type: ignore[assignment]
    try:
        sft(folder, model, adapter)
    finally:
        trl_adapter.padding = original


CASES: dict[str, Case] = {"sft": sft, "dpo": dpo, "quantized": quantized}


def rows(path: Path) -> Path:
    return once(path, lambda: written(path, sft_rows(13)))


def pairs(path: Path) -> Path:
    return once(path, lambda: written(path, preference_rows(30)))


def once(path: Path, write: Callable[[], object]) -> Path:
    if is_main():
        write()
    wait_for_all()
    return path


def main() -> None:
    import torch
    from accelerate import PartialState

    PartialState(cpu=True)
    assert world_size() == 2
    folder, model, adapter = map(Path, sys.argv[1:])
    for name, case in (CASES | {"repeating": repeating}).items():
        case(folder / name, model, adapter)
    wait_for_all()
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
