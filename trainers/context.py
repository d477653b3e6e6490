"""Which tokens does a rank of the context axis hold? A micro-batch is cut before the Program sees it.

The rule is in models/layers/tokens.py, where attention puts the tokens back into their order.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from ..models.axes import Axis
from ..models.layers.tokens import dealt
from .terms import Batch


def own_tokens(batch: Batch, dims: Mapping[str, int], axis: Axis) -> Batch:
    """A micro-batch with this rank's tokens of every tensor that has them, and their "position" int64 [B, T / C].

    Args:
        dims: tensor's name -> its dim of tokens.

    Raises:
        ValueError: twice the degree does not divide the tokens.
    """
    if axis.degree == 1:
        return batch
    found = dict(batch)
    for name, dim in dims.items():
        if name in batch:
            places = positions(batch[name].shape[dim], axis, batch[name].device)
            found[name] = batch[name].index_select(dim, places)
    samples = next(iter(batch.values())).shape[0]
    found["position"] = places.expand(samples, -1)
    return found


def positions(tokens: int, axis: Axis, device: torch.device) -> Tensor:
    """Places int64 [T / C], in their samples, of the tokens that this rank holds.

    Raises:
        ValueError: twice the degree does not divide the tokens.
    """
    if tokens % (2 * axis.degree):
        raise ValueError(
            f"context={axis.degree} cuts a sample into {2 * axis.degree} chunks, which do not divide {tokens} tokens"
        )
    return dealt(torch.arange(tokens, device=device), axis, 0).chunk(axis.degree)[axis.index]
