"""How do samples become a batch of tensors? By stacking; a batch is a dict of tensors whose first dim is the sample."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .dataset import MapStyle

RESERVED = frozenset({"sample", "key"})  # the loader's own


def collate(dataset: MapStyle, indices: NDArray[np.int64]) -> dict[str, Tensor]:
    """The samples at some indices, each tensor [B, ...]; a tuple's elements are named "0", "1", and so on.

    Raises:
        ValueError: items differ in names or shapes, hold what is no number, or use a reserved name.
    """
    fetch = getattr(dataset, "fetch", None)
    if fetch is not None:
        batch = {name: torch.as_tensor(rows) for name, rows in fetch(indices).items()}
    else:
        batch = _stacked([_named(dataset[int(index)]) for index in indices], indices)
    if taken := RESERVED & batch.keys():
        raise ValueError(f"a sample must not name a value {' or '.join(sorted(taken))}: the loader adds it")
    return batch


def _named(item: Any) -> Mapping[str, Any]:
    if isinstance(item, Mapping):
        return item
    parts = item if isinstance(item, (tuple, list)) else (item,)
    return {str(number): part for number, part in enumerate(parts)}


def _stacked(items: Sequence[Mapping[str, Any]], indices: NDArray[np.int64]) -> dict[str, Tensor]:
    for item, index in zip(items, indices, strict=True):
        if item.keys() != items[0].keys():
            raise ValueError(f"sample {indices[0]} holds {sorted(items[0])}, but sample {index} {sorted(item)}")
    return {name: _stack(name, [item[name] for item in items], indices) for name in items[0]}


def _stack(name: str, values: Sequence[Any], indices: NDArray[np.int64]) -> Tensor:
    try:
        tensors = [torch.as_tensor(value) for value in values]
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"{name!r} of a sample is no array, tensor or number ({error})") from None
    for tensor, index in zip(tensors, indices, strict=True):
        if tensor.shape != tensors[0].shape:
            shapes = f"{list(tensors[0].shape)}, but {list(tensor.shape)} of sample {index}"
            raise ValueError(f"{name!r} of sample {indices[0]} has shape {shapes}; samples of a batch have one shape")
    return torch.stack(tensors)
