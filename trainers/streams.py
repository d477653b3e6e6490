"""What does a sample slot carry from a step to the next? Rows of the entry's streams, kept on the slot's data rank.

A slot is a position of the global batch. Rows are handed to forward with the batch and replaced only after the whole
step, so that a recomputed forward sees what the first one saw.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, Shard

from ..models.entry import Entry, Stream
from .mesh import Mesh
from .terms import Batch


class Streams:
    """The rows of one rank: those of its slots, and of the units that it holds."""

    def __init__(self, entry: Entry, config: Any, program: nn.Module, mesh: Mesh, slots: int) -> None:
        """Make rows of zeros.

        Args:
            slots: samples of this data rank in a global batch.

        Raises:
            ValueError: tokens of a sample are split over context, so no rank sees where a stream ends.
        """
        streams = entry.streams(config) if entry.streams else {}
        if streams and mesh.layout.context > 1:
            raise ValueError(f"context={mesh.layout.context}: the streams of {entry.name} need whole samples")
        self.mesh = mesh
        self.rows = {
            name: torch.zeros(slots, *stream.shape, dtype=getattr(torch, stream.dtype), device=mesh.device)
            for name, stream in streams.items()
            if holds(program, stream)
        }

    def hand_out(self, micro_batches: Sequence[Batch], fresh: bool) -> list[Batch]:
        """The micro-batches with their rows; zeros for all where every slot begins anew."""
        if not self.rows:
            return list(micro_batches)
        if fresh:
            for row in self.rows.values():
                row.zero_()
        sizes = [next(iter(batch.values())).shape[0] for batch in micro_batches]
        parts = {name: row[: sum(sizes)].split(sizes) for name, row in self.rows.items()}
        return [{**batch, **{name: part[i] for name, part in parts.items()}} for i, batch in enumerate(micro_batches)]

    def blank(self, batch: Batch) -> Batch:
        """A batch whose slots begin here, as held-out samples do."""
        samples = next(iter(batch.values())).shape[0]
        return {
            **batch,
            **{name: torch.zeros_like(row[:1].expand(samples, *row.shape[1:])) for name, row in self.rows.items()},
        }

    def take(self, states: Mapping[int, Mapping[str, Tensor]]) -> None:
        """Keep the new rows of every micro-batch, in place.

        Raises:
            ValueError: forward left out a stream, or named one that the entry does not.
        """
        for name, row in self.rows.items():
            if any(name not in state for state in states.values()):
                raise ValueError(f'the Program returned no rows of the stream {name!r} under "state"')
            row.copy_(torch.cat([states[index][name] for index in sorted(states)]))
        if unknown := {name for state in states.values() for name in state} - self.rows.keys():
            raise ValueError(f'the Program returned "state" {sorted(unknown)}, which are no streams of the entry')

    def tensors(self) -> dict[str, Tensor]:
        """ "stream.<name>" -> the rows of all slots, as live references."""
        axis = self.mesh.axis("replicate", "shard")
        if axis is None:
            return {f"stream.{name}": row for name, row in self.rows.items()}
        split = [Shard(0)] * axis.ndim
        return {f"stream.{name}": DTensor.from_local(row, axis, split) for name, row in self.rows.items()}


def holds(program: nn.Module, stream: Stream) -> bool:
    """Whether a part of the model has the unit that uses a stream."""
    module: Any = program
    for name in filter(None, stream.unit.split(".")):
        module = module[name] if isinstance(module, nn.ModuleDict) and name in module else getattr(module, name, None)
    return module is not None
