"""Whether a recipe can be trained in several processes, and in how many: refused before anything is done."""

from dataclasses import dataclass
from pathlib import Path

from rlaif_dpo.errors import UserError, did_you_mean
from rlaif_dpo.recipe.schema import Recipe

CONFIGS = Path(__file__).parent / "accelerate"
"""A file for each strategy that is tested."""
UNTESTED = {"fsdp2": "sharded weights", "deepspeed_zero2": "a sharded optimiser"}


@dataclass(frozen=True)
class Launch:
    """How stages that train are spread over processes.

    Attributes:
        strategy: `ddp`: each process has the whole model and a share of every batch.
        processes: How many, at least 2; one a GPU.
    """

    strategy: str
    processes: int

    @property
    def config(self) -> Path:
        """What `accelerate launch` reads."""
        return CONFIGS / f"{self.strategy}.yaml"


def launch_of(strategy: str, processes: int | None, recipe: Recipe) -> Launch:
    """`--accelerate STRATEGY --processes N` for a recipe; without N, one process for each GPU.

    Raises:
        UserError: What is not tested, or cannot be shared out, each by its name.
    """
    if strategy in UNTESTED:
        raise UserError(
            f"--accelerate {strategy} ({UNTESTED[strategy]}) is not tested; use --accelerate ddp: the adapter is small, and the "
            "base has to fit one GPU for drafting anyway"
        )
    if strategy != "ddp":
        raise UserError(f"--accelerate {strategy}: there is no such strategy.{did_you_mean(strategy, ['ddp', *UNTESTED])}")
    if recipe.optimizer != "dpo":
        raise UserError(
            f"--accelerate is tested with SFT and DPO, not with optimizer: {recipe.optimizer}; leave it out or set optimizer=dpo"
        )
    if recipe.start.revise and recipe.sft.loss == "constrained":
        raise UserError("--accelerate is not tested with sft.loss: constrained; leave it out, or set sft.loss=nll")
    launch = Launch(strategy, _processes(processes))
    sections = {"sft": recipe.sft.batch_size, "dpo": recipe.dpo.batch_size}
    for name, batch in sections.items() if recipe.start.revise else [("dpo", recipe.dpo.batch_size)]:
        if batch % launch.processes:
            fits = max(1, round(batch / launch.processes)) * launch.processes
            raise UserError(
                f"{name}.batch_size {batch} cannot be shared by {launch.processes} processes; set {name}.batch_size={fits}"
            )
    return launch


def _processes(asked: int | None) -> int:
    """How many, by what was asked and by the GPUs that are here."""
    import torch

    gpus = torch.cuda.device_count()
    if asked is None and gpus == 0:
        raise UserError("--accelerate finds no GPU; name the number of processes to train on the CPU: --processes 2")
    processes = gpus if asked is None else asked
    if processes < 2:
        found = "one GPU is visible" if asked is None else f"--processes {asked}"
        raise UserError(f"--accelerate is for two processes or more, and {found}; leave it out")
    if gpus and processes > gpus:
        raise UserError(f"--processes {processes}: {gpus} GPUs are visible, and each process needs its own; lower it")
    return processes
