"""How does a compiled graph draw? By one operator that the compiler does not look into.

Dynamo cannot trace crc32, and Inductor's C++ cannot compile every shift of 32-bit integers. Importing this file
registers the operator, which `draw.hashed` becomes while a graph is traced.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from . import draw


@torch.library.custom_op("shardwright::hashed", mutates_args=())
def hashed(
    key: Tensor, name: str, shape: Sequence[int], start: Sequence[int], indices: Sequence[Tensor], extent: Sequence[int]
) -> Tensor:
    """`draw.hashed`; a start below zero stands for the next of the index tensors, and an empty extent for none."""
    chosen = iter(indices)
    first = [next(chosen) if number < 0 else number for number in start]
    return draw.hashed(key, name, shape, first or None, extent or None)


@hashed.register_fake
def _(
    key: Tensor, name: str, shape: Sequence[int], start: Sequence[int], indices: Sequence[Tensor], extent: Sequence[int]
) -> Tensor:
    return key.new_empty((key.shape[0], *shape), dtype=torch.int32)
