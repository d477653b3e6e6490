"""What is the gradient's true norm under any layout? Every element is counted once, whoever holds copies of it."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from ..models.axes import local
from .layout import Layout


def copies(parameter: nn.Parameter, layout: Layout) -> int:
    """How many ranks of one pipeline stage hold the same elements of a parameter as this rank does."""
    shards = 1
    if isinstance(parameter, DTensor):
        for dim, placement in enumerate(parameter.placements):
            if not placement.is_replicate():  # a strided shard is a shard too
                shards *= parameter.device_mesh.size(dim)
    return layout.data * layout.context * layout.tensor // shards


def local_gradients(parameters: Sequence[nn.Parameter]) -> list[Tensor]:
    """This rank's part of each gradient; zeros where a parameter took no part in the step."""
    for parameter in parameters:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    return [local(parameter.grad) for parameter in parameters if parameter.grad is not None]


def square_share(gradients: Sequence[Tensor], holders: Sequence[int]) -> Tensor:
    """This rank's share of the squared norm: summed over the world it is the squared norm of the whole gradient.

    Args:
        holders: ranks of the world that hold the same elements of each gradient.
    """
    if not gradients:
        return torch.zeros((), dtype=torch.float64)
    norms = torch.stack(torch._foreach_norm(list(gradients))).double()
    return (norms.square() / torch.tensor(holders, dtype=torch.float64, device=norms.device)).sum()


def clip_factor(norm: float, limit: float) -> float:
    """What gradients of a norm are multiplied by, so that the norm is at most `limit`; 0 turns clipping off."""
    return min(1.0, limit / (norm + 1e-6)) if limit else 1.0
