"""How do the ranks of a pipeline work together? Each runs its order of actions; tensors travel between virtual stages.

Every rank of a pipeline holds the same micro-batches, so only the boundary tensors travel, and gradients back for
those that need one. What an action computes is a range of its label in a profiler's trace; waiting is not in it.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge
from torch.profiler import record_function

from ..models.program import Result, Terms, take_apart
from .mesh import Mesh
from .pipeline_messages import Boundary, Kind, boundaries, checked
from .pipeline_order import SCHEDULES, Action
from .split_backward import SplitBackward
from .terms import Batch, GradientSync, Passed, add, objective

Kinds = Callable[[int, int], Sequence[Kind]]  # (samples, index of a unit) -> shape and dtype of what reaches it


@dataclass
class _Flight:
    """A micro-batch between its forward and the end of its backward."""

    inputs: Sequence[Tensor]
    outputs: Sequence[GradientEdge]  # those that have a gradient
    kinds: Sequence[Kind]  # of these outputs
    seeds: Sequence[Tensor]  # gradients of the outputs, where they are known beforehand
    split: SplitBackward | None


class Pipeline:
    """One rank of a pipeline: forward and backward of all micro-batches of a step."""

    def __init__(
        self, chunks: Sequence[nn.Module], units: Sequence[range], mesh: Mesh, kinds: Kinds, *, split: bool
    ) -> None:
        """Wire one rank. Collective.

        Args:
            chunks: each runs the units of one of the rank's virtual stages.
            units: their indices, chunk by chunk.
            kinds: of the tensors that reach a unit from another stage.
            split: "B" is the backward as far as the inputs and "W" the rest; otherwise "B" is all of it.
        """
        self.schedule, self.rank, self.ranks = (
            SCHEDULES[mesh.layout.schedule],
            mesh.place.pipeline,
            mesh.layout.pipeline,
        )
        between = [None, *boundaries(mesh, self.schedule), None]
        stages = [self.schedule.stage(self.rank, self.ranks, chunk) for chunk in range(len(chunks))]
        self.chunks = [
            _Chunk(program, kept, between[stage], between[stage + 1], kinds, split)
            for program, kept, stage in zip(chunks, units, stages, strict=True)
        ]

    def run(
        self,
        micro_batches: Sequence[Batch],
        sync: GradientSync,
        told: Mapping[str, str],
        weights: Mapping[str, float],
    ) -> Passed:
        """Forward and backward of a step; terms on the rank of the last virtual stage, none elsewhere.

        Args:
            told: further keywords of forward; weights: of each term's sum in what is differentiated.
        """
        passed, left = Passed(), [len(micro_batches)] * len(self.chunks)
        for chunk in self.chunks:
            chunk.program.train()
        for action in self.schedule.order(self.rank, self.ranks, len(micro_batches)):
            chunk = self.chunks[action.chunk]
            if action.kind == "F":
                chunk.forward(action, micro_batches[action.micro_batch], told, weights, passed)
                continue
            if action.kind == chunk.reaches_weights:
                left[action.chunk] -= 1
                sync.prepare(last=not left[action.chunk], chunk=action.chunk)
            chunk.backward(action)
        self._finish()
        return passed

    def evaluate(self, micro_batches: Sequence[Batch], told: Mapping[str, str]) -> Terms:
        """Forward alone; the terms on the rank of the last virtual stage, none elsewhere."""
        terms: Terms = {}
        for chunk in self.chunks:
            chunk.program.eval()
        for action in self.schedule.order(self.rank, self.ranks, len(micro_batches)):
            if action.kind == "F":
                batch = micro_batches[action.micro_batch]
                terms = add(terms, self.chunks[action.chunk].evaluate(action, batch, told))
        self._finish()
        return terms

    def _finish(self) -> None:
        for chunk in self.chunks:
            for boundary in (chunk.before, chunk.after):
                if boundary is not None:
                    boundary.finish()


class _Chunk:
    """One virtual stage."""

    def __init__(
        self,
        program: nn.Module,
        units: range,
        before: Boundary | None,
        after: Boundary | None,
        kinds: Kinds,
        split: bool,
    ) -> None:
        self.program, self.units, self.before, self.after = program, units, before, after
        self.kinds, self.split = kinds, split
        self.reaches_weights = "W" if split else "B"  # the action after which gradients of weights are there
        self.flights: dict[int, _Flight] = {}

    def forward(
        self, action: Action, batch: Batch, told: Mapping[str, str], weights: Mapping[str, float], passed: Passed
    ) -> None:
        """Forward of a micro-batch; what its backward needs is kept."""
        phase = told.get("phase", "")
        inputs = self._take(batch)
        if self.before is not None:
            for x, needed in zip(inputs, self.before.hear(phase, inputs), strict=True):
                x.requires_grad_(needed)
        with record_function(action.label):
            result = take_apart(self.program(batch, *inputs, **told), weights if self.after is None else ())
            passed.add(action.micro_batch, result)
            outputs = self._outputs(result, batch, weights)
        if self.after is not None:
            self.after.give(outputs)
            self.after.announce(phase, outputs)
        self.flights[action.micro_batch] = self._flight(inputs, [x for x in outputs if x.requires_grad])

    def _outputs(self, result: Result, batch: Batch, weights: Mapping[str, float]) -> Sequence[Tensor]:
        """What backward starts from: the boundary tensors, or the objective."""
        if self.after is None:
            return [objective(result.terms, weights)]
        return checked(result.boundary, self.kinds(_samples(batch), self.units.stop))

    def _flight(self, inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> _Flight:
        edges = [get_gradient_edge(x) for x in outputs]
        kinds = [(tuple(x.shape), x.dtype) for x in outputs]
        seeds = [torch.ones_like(x) for x in outputs] if self.after is None else []
        return _Flight(inputs, edges, kinds, seeds, SplitBackward(edges, inputs) if self.split else None)

    def backward(self, action: Action) -> None:
        """Backward of a micro-batch, or one of its two parts."""
        if action.kind == "W" and not self.split:
            return
        flight = self.flights[action.micro_batch]
        if action.kind == "B":
            gradients = self._gradients(flight)
            with record_function(action.label):
                found = _differentiate(flight, gradients)
            self._give_back(flight, found)
        elif flight.split is not None:
            with record_function(action.label):
                flight.split.weights()
        if action.kind == self.reaches_weights:
            del self.flights[action.micro_batch]

    def evaluate(self, action: Action, batch: Batch, told: Mapping[str, str]) -> Terms:
        """Forward of a micro-batch without a backward."""
        inputs = self._take(batch)
        with record_function(action.label):
            result = take_apart(self.program(batch, *inputs, **told), ())
        if self.after is not None:
            self.after.give(checked(result.boundary, self.kinds(_samples(batch), self.units.stop)))
        return result.terms

    def _take(self, batch: Batch) -> list[Tensor]:
        return [] if self.before is None else self.before.take(self.kinds(_samples(batch), self.units.start))

    def _gradients(self, flight: _Flight) -> Sequence[Tensor]:
        """Of the outputs; that of the objective is one."""
        if self.after is None or not flight.outputs:
            return flight.seeds
        found = self.after.backward.receive(flight.kinds)
        self.after.forward.arrived()  # the micro-batch itself, or there would be no gradient of it
        return found

    def _give_back(self, flight: _Flight, found: Sequence[Tensor | None]) -> None:
        """Gradients of the inputs that need one; zeros where the objective does not depend on them."""
        pairs = [(x, gradient) for x, gradient in zip(flight.inputs, found, strict=True) if x.requires_grad]
        if self.before is not None and pairs:
            self.before.backward.send([torch.zeros_like(x) if gradient is None else gradient for x, gradient in pairs])


def _differentiate(flight: _Flight, gradients: Sequence[Tensor]) -> Sequence[Tensor | None]:
    """The gradients of the inputs; in an unsplit backward those of the weights are added to their `grad`."""
    if flight.split is not None:
        return flight.split.inputs(gradients)
    if flight.outputs:
        torch.autograd.backward(flight.outputs, gradients)
    return [x.grad for x in flight.inputs]


def _samples(batch: Batch) -> int:
    return next(iter(batch.values())).shape[0]
