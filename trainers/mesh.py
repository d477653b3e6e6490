"""Which process groups does a layout need? The device mesh of one rank, built once and passed down as a value."""

from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from .layout import AXES, Layout, Place


@dataclass(frozen=True)
class Mesh:
    """A layout, this rank's place in it, and the device mesh over the axes whose degree exceeds one."""

    layout: Layout
    rank: int
    device: torch.device
    devices: DeviceMesh | None  # None: every degree is one

    @property
    def place(self) -> Place:
        """Coordinates of this rank."""
        return self.layout.place(self.rank)

    @property
    def data_rank(self) -> int:
        """Which share of every global batch this rank reads."""
        return self.layout.data_rank(self.rank)

    def axis(self, *names: str) -> DeviceMesh | None:
        """The sub-mesh over those of the named axes whose degree exceeds one; None where there is none."""
        used = tuple(name for name in names if self.layout.degrees[name] > 1)
        if self.devices is None or not used:
            return None
        return self.devices[used]

    def group(self, name: str) -> dist.ProcessGroup | None:
        """The process group along one axis; None where its degree is one."""
        axis = self.axis(name)
        return None if axis is None else axis.get_group()

    def sum(self, values: Tensor) -> None:
        """Add a tensor of every rank, in place. Collective over the world."""
        if self.layout.world_size > 1:
            dist.all_reduce(values)


def build_mesh(layout: Layout, rank: int, device: torch.device) -> Mesh:
    """The mesh of this rank. Collective: every rank of the world calls it with the same layout.

    Raises:
        ValueError: the world has another size than the layout.
    """
    world = dist.get_world_size()
    if world != layout.world_size:
        raise ValueError(f"{layout.factors} = {layout.world_size} ranks, but the world has {world}")
    axes = {axis: layout.degrees[axis] for axis in AXES if layout.degrees[axis] > 1}
    devices = init_device_mesh(device.type, tuple(axes.values()), mesh_dim_names=tuple(axes)) if axes else None
    return Mesh(layout, rank, device, devices)
