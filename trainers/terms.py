"""What does an objective return? Named (sum, count) terms, added over micro-batches and ranks before one division.

A mean of means weights a rank or a micro-batch with few items too much; sums and counts cannot.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Protocol

import torch
from torch import Tensor

from ..models.program import Result, Terms

Batch = Mapping[str, Tensor]  # dim 0 of every tensor is the sample
LOSS: Mapping[str, float] = MappingProxyType({"loss": 1.0})  # what is differentiated where there is one objective


@dataclass
class Passed:
    """What the forwards of a step found on this rank."""

    terms: Terms = field(default_factory=dict)
    states: dict[int, Mapping[str, Tensor]] = field(default_factory=dict)  # micro-batch -> new rows of its streams
    update: dict[str, Tensor] = field(default_factory=dict)  # what a rule without gradients adds, by parameter

    def add(self, micro_batch: int, result: Result) -> None:
        """Take in one micro-batch's result, off the graph. A stage may have several parts; each brings its streams."""
        self.terms = add(self.terms, result.terms)
        rows = {name: x.detach() for name, x in result.state.items()}
        self.states[micro_batch] = {**self.states.get(micro_batch, {}), **rows}
        for name, x in result.update.items():
            self.update[name] = x.detach() + self.update[name] if name in self.update else x.detach()


def objective(terms: Terms, weights: Mapping[str, float]) -> Tensor:
    """What is differentiated: the weighted sum of the terms' sums, 0-dim."""
    return torch.stack([weight * terms[name][0] for name, weight in weights.items()]).sum()


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

    def prepare(self, last: bool, chunk: int = 0) -> None:
        """Announce a backward of one chunk of the model, and whether it is that chunk's last of the step."""

    def finish(self) -> None:
        """Return once every gradient is reduced."""


class Stages(Protocol):
    """How the parts of a model that is cut into a pipeline work together."""

    def run(
        self, micro_batches: Sequence[Batch], sync: GradientSync, told: Mapping[str, str], weights: Mapping[str, float]
    ) -> Passed:
        """Forward and backward of a step; terms on the rank of the last part, none elsewhere.

        Args:
            told: further keywords of forward; weights: of each term's sum in what is differentiated.
        """

    def evaluate(self, micro_batches: Sequence[Batch], told: Mapping[str, str]) -> Terms:
        """Forward alone; the terms on the rank of the last part, none elsewhere."""


class NoSync:
    """One data rank: nothing to agree on."""

    def __init__(self, parameters: Sequence[Tensor]) -> None:
        self.parameters = parameters

    def zero(self) -> None:
        """Clear the gradients."""
        for parameter in self.parameters:
            parameter.grad = None

    def prepare(self, last: bool, chunk: int = 0) -> None:
        """Nothing to announce."""

    def finish(self) -> None:
        """Nothing to wait for."""


class EachChunk:
    """Several chunks of the model on one rank, each with parameters and a last backward of its own."""

    def __init__(self, parts: Sequence[GradientSync]) -> None:
        self.parts = parts

    def zero(self) -> None:
        """Clear the gradients; none is at its last backward."""
        for part in self.parts:
            part.zero()
            part.prepare(last=False)

    def prepare(self, last: bool, chunk: int = 0) -> None:
        """Announce a backward of one chunk."""
        self.parts[chunk].prepare(last)

    def finish(self) -> None:
        """Return once every gradient is reduced."""
        for part in self.parts:
            part.finish()


def each_chunk(parts: Sequence[GradientSync]) -> GradientSync:
    """How the gradients of a rank's chunks come to agree."""
    return parts[0] if len(parts) == 1 else EachChunk(parts)
