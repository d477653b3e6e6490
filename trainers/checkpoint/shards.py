"""Which bytes of the state are this rank's? The local shard of each tensor, one after the other."""

import json
import mmap
from collections.abc import Mapping, Sequence
from hashlib import sha256

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor

from .slot_file import Stamp

ALIGNMENT = 64


class Shards:
    """The local shards of live tensors, and where each lies within a slot."""

    def __init__(self, tensors: Mapping[str, torch.Tensor]) -> None:
        self.tensors = tuple(tensors.values())
        self.offsets, size = [], 0
        for shard in self._local():
            self.offsets.append(size)
            size += -(-shard.nbytes // ALIGNMENT) * ALIGNMENT
        rank, world_size = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
        self.stamp = Stamp(rank, world_size, max(size, ALIGNMENT), signature(tensors))

    def views(self, memory: mmap.mmap, start: int) -> list[torch.Tensor]:
        """Tensors over mapped memory, one for each shard."""
        flat = torch.frombuffer(memory, dtype=torch.uint8)
        return [
            flat[start + offset : start + offset + shard.nbytes].view(shard.dtype).view(shard.shape)
            for offset, shard in zip(self.offsets, self._local(), strict=True)
        ]

    def copy_to(self, views: Sequence[torch.Tensor]) -> None:
        """Shards into mapped memory; returns when the bytes are there."""
        with torch.no_grad():
            for view, shard in zip(views, self._local(), strict=True):
                view.copy_(shard)

    def copy_from(self, views: Sequence[torch.Tensor]) -> None:
        """Mapped memory into the live shards."""
        with torch.no_grad():
            for view, shard in zip(views, self._local(), strict=True):
                shard.copy_(view)

    def _local(self) -> list[torch.Tensor]:
        # Asked anew each time: a sharded parameter may replace its local tensor.
        with torch.no_grad():
            return [tensor.to_local() if isinstance(tensor, DTensor) else tensor for tensor in self.tensors]


def signature(tensors: Mapping[str, torch.Tensor]) -> bytes:
    """32 bytes that differ when names, order, shapes, dtypes, placements or the mesh differ."""
    sharded = [tensor for tensor in tensors.values() if isinstance(tensor, DTensor)]
    meshes = {mesh: mesh.mesh.tolist() for mesh in {tensor.device_mesh for tensor in sharded}}  # asking is slow
    described = [[name, *_describe(tensor, meshes)] for name, tensor in tensors.items()]
    return sha256(json.dumps(described).encode()).digest()


def _describe(tensor: torch.Tensor, meshes: Mapping[DeviceMesh, list[object]]) -> list[object]:
    described: list[object] = [list(tensor.shape), str(tensor.dtype)]
    if isinstance(tensor, DTensor):
        mesh = meshes[tensor.device_mesh]
        return [*described, str(tensor.placements), mesh, list(tensor.to_local().shape)]
    return described
