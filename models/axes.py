"""Where does a module stand in the mesh? A value that parallelize sets on every module which asks for it.

A module asks by the class attribute `axes: Axes = ALONE`; alone, every axis has one rank and its collectives are the
identity, so the same forward serves one process and any layout.
"""

from dataclasses import dataclass

import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor


@dataclass(frozen=True)
class Axis:
    """One axis as a rank sees it."""

    index: int = 0  # of this rank along the axis
    degree: int = 1
    group: dist.ProcessGroup | None = None  # None where the degree is one


@dataclass(frozen=True)
class Axes:
    """The axes that a forward may have to talk over."""

    data: Axis = Axis()  # ranks that see other parts of the same global batch: replicate x shard x context
    tensor: Axis = Axis()  # ranks that split this module's layers
    context: Axis = Axis()  # ranks that hold other tokens of the same samples
    expert: Axis = Axis()  # ranks that hold other experts: consecutive ranks of `data`
    sequence: bool = False  # between split layers, the tokens are split over `tensor`
    attention: str = "gather"  # how attention meets the other tokens over `context`: gather or ulysses


ALONE = Axes()


def local(tensor: Tensor) -> Tensor:
    """This rank's part of a tensor, sharing its memory; a plain tensor is its own part."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor
