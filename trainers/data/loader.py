"""Which batches does this rank read at a step? A slice of the step's global batch, cut into micro-batches.

Invariant: the global batch of a step is the positions [step * G, (step + 1) * G) of the order, whatever the number of
ranks; so resuming and resizing are arithmetic, and a loader has no state.

G samples of a global batch, D data ranks.
"""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...models.draw import keys
from .collate import collate
from .dataset import MapStyle
from .slots import Slots

Batch = dict[str, Tensor]


class Positions(Protocol):
    """Which sample stands at which global position: an Order or InTurn."""

    @property
    def size(self) -> int:
        """Samples of one epoch."""
        ...

    def samples(self, position: int, count: int) -> NDArray[np.int64]:
        """Data-set indices at [position, position + count)."""
        ...


@dataclass(frozen=True)
class Loader:
    """Loads one data rank's share of each step.

    Raises:
        ValueError: the sizes do not divide, or the order is not of this data set.
    """

    dataset: MapStyle
    order: Positions
    seed: int
    global_batch: int
    data_rank: int
    data_degree: int
    micro_batch: int

    def __post_init__(self) -> None:
        if self.order.size != len(self.dataset):
            raise ValueError(f"an order of {self.order.size} samples does not fit a data set of {len(self.dataset)}")
        if not 0 <= self.data_rank < self.data_degree:
            raise ValueError(f"data rank {self.data_rank} is not one of {self.data_degree}")
        if self.global_batch % self.data_degree:
            raise ValueError(
                f"train.global_batch = {self.global_batch} does not divide among {self.data_degree} data ranks"
            )
        if self.micro_batch < 1 or self.share % self.micro_batch:
            legal = ", ".join(str(n) for n in range(1, self.share + 1) if self.share % n == 0)
            raise ValueError(
                f"train.micro_batch = {self.micro_batch} does not divide a rank's {self.share} samples (legal: {legal})"
            )

    @property
    def share(self) -> int:
        """Samples of one step on one data rank."""
        return self.global_batch // self.data_degree

    @property
    def whole_batches(self) -> int:
        """Global batches in which no sample comes twice; at least 1, whose samples then repeat."""
        return max(1, len(self.dataset) // self.global_batch)

    def load(self, step: int) -> list[Batch]:
        """The micro-batches of this rank at a step (0 is the first), each on the CPU.

        Beside the data set's tensors: "sample" int64 [B] = epoch * size + index, unique through all epochs (a slot has
        its own number at every step), and "key" int32 [B, 2], the random key of (seed, step, sample).
        """
        position = step * self.global_batch + self.data_rank * self.share
        indices = self.order.samples(position, self.share)
        epoch = np.arange(position, position + self.share) // self.order.size
        batch = collate(self.dataset, indices)
        earlier = 0 if isinstance(self.dataset, Slots) else epoch * self.order.size
        batch["sample"] = torch.from_numpy(earlier + indices)
        batch["key"] = keys(self.seed, step, batch["sample"])
        starts = range(0, self.share, self.micro_batch)
        return [{name: rows[i : i + self.micro_batch] for name, rows in batch.items()} for i in starts]
