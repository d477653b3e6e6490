"""Which tokens of its samples does a rank work on? Two chunks of each under context parallel, so causal work is even.

The tokens of a sample are cut into 2 C chunks; rank r of C holds chunks r and 2 C - 1 - r, so an early chunk, which
attends to little, goes with a late one (the balance of Llama 3's context parallelism, Dubey et al. 2024, section
3.3.2). With sequence parallel, what a rank holds between split layers is its part of these.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ..axes import Axes, Axis


@dataclass(frozen=True)
class Tokens:
    """Places in the sample, as `start` of draw() takes them: the first of neighbouring ones, or all, int64 [T]."""

    whole: int  # tokens of a sample
    inside: int | Tensor = 0  # of the tokens in attention and other split layers
    between: int | Tensor = 0  # of the tokens between split layers


def tokens_of(batch: Mapping[str, Tensor], axes: Axes, name: str = "inputs") -> Tokens:
    """The tokens of this rank.

    Args:
        batch: `name` [B, T, ...], and "position" int64 [B, T] where the context axis is split; samples are cut alike.
    """
    count = batch[name].shape[1]
    inside: int | Tensor = batch["position"][0] if "position" in batch else 0
    if not axes.sequence:
        return Tokens(count * axes.context.degree, inside, inside)
    part = count // axes.tensor.degree
    first = axes.tensor.index * part
    between = inside + first if isinstance(inside, int) else inside[first : first + part]
    return Tokens(count * axes.context.degree, inside, between)


def places(start: int | Tensor, count: int, device: torch.device) -> Tensor:
    """All places int64 [T] of `count` tokens."""
    return start if isinstance(start, Tensor) else torch.arange(start, start + count, device=device)


def dealt(x: Tensor, axis: Axis, dim: int) -> Tensor:
    """The tokens of a dim from their order in the sample to the order of the ranks that hold them."""
    chunks = x.chunk(2 * axis.degree, dim)
    return torch.cat([chunks[i] for rank in range(axis.degree) for i in (rank, 2 * axis.degree - 1 - rank)], dim)


def in_order(x: Tensor, axis: Axis, dim: int) -> Tensor:
    """The tokens of a dim from the order of the ranks that hold them to their order in the sample."""
    chunks = x.chunk(2 * axis.degree, dim)
    return torch.cat([*chunks[::2], *chunks[::-1][::2]], dim)
