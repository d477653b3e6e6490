"""What does an objective return? Named (sum, count) terms, added over micro-batches and ranks before one division.

A mean of means weights a rank or a micro-batch with few items too much; sums and counts cannot.
"""

from collections.abc import Mapping, Sequence
from typing import Protocol

from torch import Tensor

from ..models.program import Terms

Batch = Mapping[str, Tensor]  # dim 0 of every tensor is the sample


def add(total: Terms, terms: Terms) -> Terms:
    """The terms of two parts of a batch together, off the graph."""
    added = dict(total)
    for name, (value, count) in terms.items():
        before = added.get(name)
        value, count = value.detach(), count.detach()
        added[name] = (value, count) if before is None else (before[0] + value, before[1] + count)
    return added


class GradientSync(Protocol):
    """How gradients come to agree over the data ranks."""

    def zero(self) -> None:
        """Clear the gradients, before a step's first forward."""

    def prepare(self, last: bool) -> None:
        """Announce a backward, and whether it is the step's last."""

    def finish(self) -> None:
        """Return once every gradient is reduced."""


class NoSync:
    """One data rank: nothing to agree on."""

    def __init__(self, parameters: Sequence[Tensor]) -> None:
        self.parameters = parameters

    def zero(self) -> None:
        """Clear the gradients."""
        for parameter in self.parameters:
            parameter.grad = None

    def prepare(self, last: bool) -> None:
        """Nothing to announce."""

    def finish(self) -> None:
        """Nothing to wait for."""
