"""Which micro-batch fits? An estimate is tried by one forward and backward, and halved while memory runs out."""

import torch
from torch import Tensor

from .engine import Model
from .phases import Turns
from .portions import settle
from .state import persistent_buffers
from .terms import Batch


def settle_micro_batch(model: Model, batch: Batch, guess: int) -> int:
    """The largest micro-batch up to a guess that divides a rank's share and fits. Collective; equal on every rank.

    The model is left as it was: no update is made, and buffers that forward changed are put back.

    Args:
        batch: a rank's whole share of a global batch.
        guess: samples of a micro-batch.

    Raises:
        MemoryError: not even one sample fits.
    """
    of_rank = next(iter(batch.values())).shape[0]
    before = {name: x.clone() for name, x in persistent_buffers(model.program).items()}
    try:
        return settle(of_rank, guess, lambda size: _fits(model, {n: x[:size] for n, x in batch.items()}))
    finally:
        model.clear()
        for name, buffer in persistent_buffers(model.program).items():
            buffer.copy_(before[name])


def _fits(model: Model, micro_batch: dict[str, Tensor]) -> bool:
    """Whether one forward and backward of a micro-batch fits on every rank."""
    phase = Turns(model.entry.phases).at(0).name
    failed = torch.zeros((), device=model.mesh.device)
    try:
        model.run([micro_batch], phase=phase, weights=model.entry.objective)
    except (torch.OutOfMemoryError, MemoryError):
        failed += 1
    except RuntimeError as error:
        if "can't allocate memory" not in str(error):
            raise
        failed += 1
    model.mesh.sum(failed)
    return not failed.item()
