"""Which micro-batch fits? An estimate is tried by one forward and backward, and halved while memory runs out."""

import torch
from torch import Tensor

from .phases import Turns
from .portions import settle
from .sharded import Sharded
from .state import persistent_buffers
from .terms import Batch


def settle_micro_batch(sharded: Sharded, batch: Batch, guess: int) -> int:
    """The largest micro-batch up to a guess that divides a rank's share and fits. Collective; equal on every rank.

    The model is left as it was: no update is made, and buffers that forward changed are put back.

    Args:
        batch: a rank's whole share of a global batch.
        guess: samples of a micro-batch.

    Raises:
        MemoryError: not even one sample fits.
    """
    of_rank = next(iter(batch.values())).shape[0]
    before = {name: x.clone() for name, x in persistent_buffers(sharded.program).items()}
    try:
        return settle(of_rank, guess, lambda size: _fits(sharded, {n: x[:size] for n, x in batch.items()}))
    finally:
        sharded.sync.zero()
        for name, buffer in persistent_buffers(sharded.program).items():
            buffer.copy_(before[name])


def _fits(sharded: Sharded, micro_batch: dict[str, Tensor]) -> bool:
    """Whether one forward and backward of a micro-batch fits on every rank."""
    phase = Turns(sharded.entry.phases).at(0).name
    failed = torch.zeros((), device=sharded.mesh.device)
    try:
        sharded.run([micro_batch], phase=phase, weights=sharded.entry.objective)
    except (torch.OutOfMemoryError, MemoryError):
        failed += 1
    except RuntimeError as error:
        if "can't allocate memory" not in str(error):
            raise
        failed += 1
    sharded.mesh.sum(failed)
    return not failed.item()
