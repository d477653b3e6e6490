"""How do consecutive stages work together? Each rank runs its order of actions; tensors travel between neighbours.

Every rank of a pipeline holds the same micro-batches, so only the boundary tensors travel. Messages of one direction
between two neighbours keep the order of micro-batches; the two directions never share a communicator's queue.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ..models.entry import Entry, Shape
from ..models.program import Result, Terms, take_apart
from .layout import Layout
from .mesh import Mesh
from .pipeline_order import SCHEDULES, cut
from .terms import Batch, GradientSync, Passed, add, objective

FORWARD, BACKWARD = 0, 1  # directions: the tags of their messages, each with a group of its own


def stage_units(entry: Entry, config: object, layout: Layout) -> list[range]:
    """Which units each stage holds, balanced by their parameters."""
    assert entry.units is not None
    return cut([unit.parameters for unit in entry.units(config)], layout.pipeline)


def keep_units(program: nn.Module, paths: Sequence[str], kept: range) -> None:
    """Remove, in place, the units of other stages; forward passes over them."""
    for index, path in enumerate(paths):
        if index in kept:
            continue
        above, _, name = path.rpartition(".")
        parent = program.get_submodule(above)
        if isinstance(parent, nn.ModuleDict):
            del parent[name]
        else:
            setattr(parent, name, None)


def opposite_group(mesh: Mesh) -> dist.ProcessGroup:
    """A second group along the pipeline, for gradients: on a GPU the sends of one communicator wait for one another,
    and two neighbours that send to each other on the same one wait for ever. Collective over the world.
    """
    layout = mesh.layout
    columns = [[layout.rank(replace(layout.place(first), pipeline=p)) for p in range(layout.pipeline)]
               for first in range(layout.world_size // layout.pipeline)]  # fmt: skip
    groups = [dist.new_group(ranks) for ranks in columns]
    mine: dist.ProcessGroup = next(group for group, ranks in zip(groups, columns, strict=True) if mesh.rank in ranks)
    return mine


class Pipeline:
    """One stage of a pipeline: forward and backward of all micro-batches of a step."""

    def __init__(
        self,
        program: nn.Module,
        mesh: Mesh,
        units: range,
        boundary: Callable[[int, int], Sequence[tuple[Shape, torch.dtype]]],
    ) -> None:
        """Wire one stage.

        Args:
            program: the units of this stage.
            units: their indices.
            boundary: (samples of a micro-batch, index of a unit) -> shape and dtype of each tensor that reaches it.
        """
        group = mesh.group("pipeline")
        assert group is not None
        self.program, self.device, self.boundary = program, mesh.device, boundary
        self.cuts = {FORWARD: units.start, BACKWARD: units.stop}  # what comes in so crosses the cut before this unit
        self.groups = {FORWARD: group, BACKWARD: opposite_group(mesh)}
        self.stage, self.stages = mesh.place.pipeline, mesh.layout.pipeline
        self.order = SCHEDULES[mesh.layout.schedule].order
        ranks = dist.get_process_group_ranks(group)
        self.before = ranks[self.stage - 1] if self.stage else None
        self.after = ranks[self.stage + 1] if self.stage + 1 < self.stages else None

    def run(
        self,
        micro_batches: Sequence[Batch],
        sync: GradientSync,
        told: Mapping[str, str],
        weights: Mapping[str, float],
    ) -> Passed:
        """Forward and backward of a step; terms on the last stage, none elsewhere.

        Args:
            told: further keywords of forward; weights: of each term's sum in what is differentiated.
        """
        passed = Passed()
        waiting: dict[int, tuple[tuple[Tensor, ...], tuple[Tensor, ...]]] = {}
        sends: list[tuple[dist.Work | None, Tensor]] = []
        for action in self.order(self.stage, self.stages, len(micro_batches)):
            i = action.micro_batch
            if action.kind == "F":
                inputs = self._receive(self.before, FORWARD, micro_batches[i], requires_grad=True)
                result = self._forward(micro_batches[i], inputs, told, weights)
                passed.add(i, result)
                outputs = result.boundary or (objective(result.terms, weights),)
                sends += self._send(outputs, self.after, FORWARD)
                waiting[i] = (inputs, outputs)
            else:
                inputs, outputs = waiting.pop(i)
                sync.prepare(last=i == len(micro_batches) - 1)
                gradients = self._receive(self.after, BACKWARD, micro_batches[i])
                torch.autograd.backward(outputs, gradients or None)
                sends += self._send([x.grad for x in inputs if x.grad is not None], self.before, BACKWARD)
        for work, _ in sends:
            if work is not None:
                work.wait()
        return passed

    def evaluate(self, micro_batches: Sequence[Batch], told: Mapping[str, str]) -> Terms:
        """Forward alone; the terms on the last stage, none elsewhere."""
        terms: Terms = {}
        sends: list[tuple[dist.Work | None, Tensor]] = []
        for batch in micro_batches:
            result = self._forward(batch, self._receive(self.before, FORWARD, batch), told, ())
            terms = add(terms, result.terms)
            sends += self._send(result.boundary, self.after, FORWARD)
        for work, _ in sends:
            if work is not None:
                work.wait()
        return terms

    def _forward(
        self, batch: Batch, inputs: tuple[Tensor, ...], told: Mapping[str, str], needed: Iterable[str]
    ) -> Result:
        return take_apart(self.program(batch, *inputs, **told), needed)

    def _receive(self, rank: int | None, tag: int, batch: Batch, requires_grad: bool = False) -> tuple[Tensor, ...]:
        if rank is None:
            return ()
        samples = next(iter(batch.values())).shape[0]
        shapes = self.boundary(samples, self.cuts[tag])
        found = [torch.empty(shape, dtype=dtype, device=self.device) for shape, dtype in shapes]
        for work in [dist.irecv(x, rank, group=self.groups[tag], tag=tag) for x in found]:
            if work is not None:
                work.wait()
        return tuple(x.requires_grad_(requires_grad and x.is_floating_point()) for x in found)

    def _send(self, tensors: Sequence[Tensor], rank: int | None, tag: int) -> list[tuple[dist.Work | None, Tensor]]:
        """Start sending; the tensors are kept until the step's end, when the works are waited for."""
        if rank is None:
            return []
        payload = [x.detach().contiguous() for x in tensors]
        return [(dist.isend(x, rank, group=self.groups[tag], tag=tag), x) for x in payload]
