"""What happens in one optimizer step? Forward and backward, one small all-reduce, then clip and update.

The all-reduce carries the terms' sums and counts, each rank's share of the squared gradient norm and the wish to stop;
so every rank divides by the same count, clips by the same norm and leaves at the same step.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from ..models.program import Terms
from .clock import Clock
from .gradients import clip_factor, local_gradients, square_share
from .optimizers import ShardedOptimizer
from .parallelize import Sharded
from .terms import Batch


@dataclass(frozen=True)
class Outcome:
    """What a step found, equal on every rank."""

    terms: dict[str, float]  # mean of each named term over the global batch
    count: float  # items of the objective in the global batch (tokens, say)
    grad_norm: float  # of the mean objective's whole gradient, before clipping
    lr: float
    stop: bool  # some rank was asked to stop

    @property
    def loss(self) -> float:
        """The objective."""
        return self.terms["loss"]


class Step:
    """The step of one sharded model and its optimizer."""

    def __init__(self, sharded: Sharded, optimizer: ShardedOptimizer, lr: Callable[[int], float], clip: float) -> None:
        self.sharded, self.optimizer, self.lr, self.clip = sharded, optimizer, lr, clip
        self.totals = Totals(sharded)
        self.parameters = list(sharded.parameters.values())
        self.holders = list(sharded.holders.values())

    def __call__(self, step: int, micro_batches: Sequence[Batch], stop: bool, clock: Clock) -> Outcome:
        """Update the parameters from this rank's share of a global batch.

        Args:
            step: updates made before this one.
            stop: this rank was asked to stop after this step.
        """
        with clock("compute"):
            terms = self.sharded.run(micro_batches)
        with clock("optimizer"):
            gradients = local_gradients(self.parameters)
            share = square_share(gradients, self.holders)
            sums, (square, stops) = self.totals(terms, share, torch.tensor(float(stop)))
            scale = self.sharded.factor / sums["loss"][1]
            norm = square**0.5 * scale
            torch._foreach_mul_(gradients, scale * clip_factor(norm, self.clip))
            lr = self.lr(step)
            self.optimizer.step(lr)
        means = {name: value / count for name, (value, count) in sums.items()}
        return Outcome(means, sums["loss"][1], norm, lr, stops > 0)


class Totals:
    """Sums terms over the data ranks, and other scalars over the world, in one all-reduce of float64."""

    def __init__(self, sharded: Sharded) -> None:
        self.sharded = sharded
        self.names: list[str] | None = None

    def __call__(self, terms: Terms, *others: Tensor) -> tuple[dict[str, tuple[float, float]], list[float]]:
        """({name: (sum, count)}, the other scalars' sums). Collective over the world.

        Raises:
            ZeroDivisionError: the global batch holds no item of some term, "loss" included.
        """
        names = self._agree(terms)
        device = self.sharded.mesh.device
        zero = torch.zeros((), dtype=torch.float64, device=device)
        pairs = [x for name in names for x in terms.get(name, (zero, zero))]
        flat = torch.stack([x.to(device, torch.float64) for x in (*pairs, *others)])
        flat[: len(pairs)] /= self.sharded.mesh.layout.tensor  # every tensor rank has the same terms
        self.sharded.mesh.sum(flat)
        values = flat.tolist()
        sums = {name: (values[2 * i], values[2 * i + 1]) for i, name in enumerate(names)}
        for name, (_, count) in sums.items():
            if count <= 0:
                raise ZeroDivisionError(
                    f"the global batch counts no item of the term {name!r}; nothing to average over"
                )
        return sums, values[len(pairs) :]

    def _agree(self, terms: Terms) -> list[str]:
        """The terms' names, which under a pipeline only the last stage knows; learnt at the first call."""
        if self.names is None:
            self.names = list(terms)
            if group := self.sharded.mesh.group("pipeline"):
                box = [self.names]
                dist.broadcast_object_list(box, dist.get_process_group_ranks(group)[-1], group=group)
                self.names = box[0]
        return self.names
