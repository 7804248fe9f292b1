"""Training in several processes, one a GPU: who this one is, and what keeps them together.

A process alone is the main one of a world of one.
"""

from collections.abc import Iterator

import torch.distributed as dist
from accelerate.data_loader import SeedableRandomSampler
from torch.utils.data import Sampler

from rlaif_dpo.files import Row


class Restart(Exception):
    """This process ran out of memory. The others wait for it in vain: all begin again, with fewer rows at once.

    Attributes:
        found: What `micro_batch.json` is to say then.
    """

    def __init__(self, found: Row) -> None:
        super().__init__(f"begins again: {found['because']}")
        self.found = found


class EvenOrder(Sampler[int]):
    """The order in which one process sees `rows` rows, then the places after them, `padding` many.

    accelerate deals micro-batches out in turn. Where they do not come out even, it repeats rows, which then count twice; here the
    last ones are filled up with rows that do not count.
    """

    def __init__(self, rows: int, padding: int, seed: int) -> None:
        self._order = SeedableRandomSampler(range(rows), data_seed=seed)
        self._rows, self._padding = rows, padding

    def __iter__(self) -> Iterator[int]:
        yield from self._order
        yield from range(self._rows, len(self))

    def __len__(self) -> int:
        return self._rows + self._padding

    def set_epoch(self, epoch: int) -> None:
        """The next pass is this one."""
        self._order.set_epoch(epoch)


def world_size() -> int:
    """How many processes train together."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def is_main() -> bool:
    """Whether this process is the one that writes files."""
    return world_size() == 1 or dist.get_rank() == 0


def wait_for_all() -> None:
    """Go on when every process has come here."""
    if world_size() > 1:
        dist.barrier()


def padding(rows: int, micro_batch: int) -> int:
    """Rows to add to `rows` so that every process gets as many micro-batches, all of them full; 0 for a process alone."""
    return -rows % (micro_batch * world_size()) if world_size() > 1 else 0
