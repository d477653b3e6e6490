"""Which process groups does a layout need? Those of one rank, built once and passed down as a value.

Parameters live on a device mesh of pipeline x replicate x shard x tensor, in which context ranks count as shards under
ZeRO and as replicas without it: they hold the same parameters. Experts live on pipeline x copies x expert x tensor.
"""

from collections.abc import Callable, Hashable
from dataclasses import dataclass, replace

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from ..models.axes import Axes, Axis
from .layout import Layout, Place


@dataclass(frozen=True)
class Mesh:
    """A layout, this rank's place in it, and its groups."""

    layout: Layout
    rank: int
    device: torch.device
    devices: DeviceMesh | None  # of parameters, over the axes whose degree exceeds one; None: every degree is one
    experts: DeviceMesh | None  # of experts, likewise; None where they are not split
    axes: Axes  # what modules are told

    @property
    def place(self) -> Place:
        """Coordinates of this rank."""
        return self.layout.place(self.rank)

    @property
    def data_rank(self) -> int:
        """Which share of every global batch this rank reads."""
        return self.layout.data_rank(self.rank)

    def axis(self, *names: str) -> DeviceMesh | None:
        """The sub-mesh of parameters over those of the named axes that are split; None where there is none."""
        if self.devices is None or self.devices.mesh_dim_names is None:
            return None
        used = tuple(name for name in names if name in self.devices.mesh_dim_names)
        return self.devices[used] if used else None

    def group(self, name: str) -> dist.ProcessGroup | None:
        """The process group of parameters along one axis; None where it is not split."""
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
    degrees = {
        "pipeline": layout.degrees["pipeline"],
        "replicate": layout.copies,
        "shard": layout.shards,
        "tensor": layout.tensor,
    }
    devices, experts = _devices(degrees, device), None
    if layout.expert > 1:
        rest = layout.data * layout.context // layout.expert
        outer = {"pipeline": layout.pipeline, "replicate": rest, "expert": layout.expert, "tensor": layout.tensor}
        experts = _devices(outer, device)
    return Mesh(layout, rank, device, devices, experts, _axes(layout, rank, devices, experts))


def _devices(degrees: dict[str, int], device: torch.device) -> DeviceMesh | None:
    split = {axis: degree for axis, degree in degrees.items() if degree > 1}
    return init_device_mesh(device.type, tuple(split.values()), mesh_dim_names=tuple(split)) if split else None


def _axes(layout: Layout, rank: int, devices: DeviceMesh | None, experts: DeviceMesh | None) -> Axes:
    """What modules of this rank are told of their place."""
    place = layout.place(rank)
    data = layout.data_rank(rank) * layout.context + place.context
    return Axes(
        data=_axis(layout, rank, lambda p: replace(p, replicate=0, shard=0, context=0), data),
        tensor=_along(devices, "tensor"),
        context=_axis(layout, rank, lambda p: replace(p, context=0), place.context),
        expert=_along(experts, "expert"),
        sequence=layout.sequence,
        attention=layout.attention,
    )


def _along(devices: DeviceMesh | None, name: str) -> Axis:
    if devices is None or name not in (devices.mesh_dim_names or ()):
        return Axis()
    axis = devices[name]
    return Axis(axis.get_local_rank(), axis.size(), axis.get_group())


def _axis(layout: Layout, rank: int, alike: Callable[[Place], Hashable], index: int) -> Axis:
    """The axis of the ranks whose places are alike but for it. Collective over the world."""
    group = new_group(layout, rank, alike)
    return Axis() if group is None else Axis(index, dist.get_world_size(group), group)


def new_group(layout: Layout, rank: int, alike: Callable[[Place], Hashable]) -> dist.ProcessGroup | None:
    """A new group of this rank and all whose places are alike under a function; None for a rank alone.

    Collective over the world.
    """
    classes: dict[Hashable, list[int]] = {}
    for each in range(layout.world_size):
        classes.setdefault(alike(layout.place(each)), []).append(each)
    mine = None
    for ranks in classes.values():
        group = dist.new_group(ranks) if len(ranks) > 1 else None
        mine = group if rank in ranks else mine
    return mine
