"""How does a forward talk over an axis, so that backward is right, and backward's backward too?

Every function here is an autograd function whose backward is made of these functions, so a gradient can itself be
differentiated (a gradient penalty under tensor parallel). Where an axis has one rank, each is the identity.

| function | forward | gradients of the ranks in backward |
|---|---|---|
| enter | identity | summed: each rank went on with its own part of the layer |
| leave | sum over the ranks | taken as they are: all ranks go on alike |
| total | sum over the ranks | summed: each rank goes on with samples of its own |
| gather | parts concatenated along a dim | summed, each rank's own part kept |
| scatter | sum over the ranks, own part along a dim kept | concatenated |
| join | parts concatenated along a dim | own part kept: all ranks go on alike |
| part | own part along a dim | concatenated |
| swap | parts of one dim exchanged for parts of another | exchanged back |
| exchange | rows sent to the ranks that counts name | sent back |
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import _functional_collectives as functional

from ..axes import Axis


def enter(x: Tensor, axis: Axis) -> Tensor:
    """x itself, into a region in which each rank of the axis computes another part from it."""
    return x if axis.group is None else _apply(_Enter, x, axis)


def leave(x: Tensor, axis: Axis) -> Tensor:
    """The sum of the ranks' partial results x, out of such a region."""
    return x if axis.group is None else _apply(_Leave, x, axis)


def total(x: Tensor, axis: Axis) -> Tensor:
    """The sum over ranks that go on with different samples."""
    return x if axis.group is None else _apply(_Total, x, axis)


def gather(x: Tensor, axis: Axis, dim: int) -> Tensor:
    """The ranks' parts x, all of one shape, concatenated along a dim; each rank goes on with it in its own way."""
    return x if axis.group is None else _apply(_Gather, x, axis, dim)


def scatter(x: Tensor, axis: Axis, dim: int) -> Tensor:
    """This rank's part, along a dim, of the sum of the ranks' x.

    Raises:
        ValueError: the degree does not divide the dim.
    """
    return x if axis.group is None else _apply(_Scatter, x, axis, dim)


def join(x: Tensor, axis: Axis, dim: int) -> Tensor:
    """The ranks' parts x, all of one shape, concatenated along a dim; all ranks go on with it alike."""
    return x if axis.group is None else _apply(_Join, x, axis, dim)


def part(x: Tensor, axis: Axis, dim: int) -> Tensor:
    """This rank's part, along a dim, of an x that all ranks hold alike.

    Raises:
        ValueError: the degree does not divide the dim.
    """
    return x if axis.group is None else _apply(_Part, x, axis, dim)


def swap(x: Tensor, axis: Axis, split: int, concatenate: int) -> Tensor:
    """x cut along the dim `split`, part i sent to rank i, what comes in concatenated along another dim (all-to-all).

    Raises:
        ValueError: the degree does not divide the dim that is split.
    """
    return x if axis.group is None else _apply(_Swap, x, axis, split, concatenate)


def exchange(x: Tensor, axis: Axis, sent: Sequence[int], received: Sequence[int]) -> Tensor:
    """Rows of x [sum(sent), ...] in the order of the ranks they go to; rows that come in, in the order of their ranks.

    Args:
        sent: rows to each rank; received: rows from each rank.
    """
    return x if axis.group is None else _apply(_Exchange, x, axis, tuple(sent), tuple(received))


@torch.no_grad()
def maximum(x: Tensor, axis: Axis) -> Tensor:
    """The largest of the ranks' x, number by number; without a gradient."""
    if axis.group is None:
        return x
    largest = x.clone(memory_format=torch.contiguous_format)
    dist.all_reduce(largest, dist.ReduceOp.MAX, group=axis.group)
    return largest


def _apply(function: type[torch.autograd.Function], *arguments: Any) -> Tensor:
    result: Tensor = function.apply(*arguments)
    return result


def _ready(x: Tensor) -> Tensor:
    """What a functional collective returned, waited for."""
    done: Tensor = functional.wait_tensor(x)
    return done


def _sum(x: Tensor, axis: Axis) -> Tensor:
    total = x.clone(memory_format=torch.contiguous_format)  # gloo reads permuted strides wrongly
    dist.all_reduce(total, group=axis.group)
    return total


def _whole(x: Tensor, axis: Axis, dim: int) -> Tensor:
    parts = functional.all_gather_tensor(x.contiguous(), 0, axis.group)  # type: ignore[arg-type]
    return torch.cat(functional.wait_tensor(parts).chunk(axis.degree), dim)


def _own(x: Tensor, axis: Axis, dim: int) -> Tensor:
    return _parts(x, axis, dim)[axis.index]


def _parts(x: Tensor, axis: Axis, dim: int) -> tuple[Tensor, ...]:
    if x.shape[dim] % axis.degree:
        raise ValueError(f"{axis.degree} ranks do not divide dim {dim} of a tensor of shape {tuple(x.shape)}")
    return x.chunk(axis.degree, dim)


class _Enter(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, axis: Axis) -> Tensor:
        ctx.axis = axis
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return leave(gradient, ctx.axis), None


class _Leave(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, axis: Axis) -> Tensor:
        ctx.axis = axis
        return _sum(x, axis)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return enter(gradient, ctx.axis), None


class _Total(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, axis: Axis) -> Tensor:
        ctx.axis = axis
        return _sum(x, axis)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return total(gradient, ctx.axis), None


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, axis: Axis, dim: int) -> Tensor:
        ctx.axis, ctx.dim = axis, dim
        return _whole(x, axis, dim)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        return scatter(gradient, ctx.axis, ctx.dim), None, None


class _Scatter(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, axis: Axis, dim: int) -> Tensor:
        ctx.axis, ctx.dim = axis, dim
        rows = torch.cat(_parts(x, axis, dim))  # the sum's parts lie one after the other along dim 0
        return _ready(functional.reduce_scatter_tensor(rows, "sum", 0, axis.group))  # type: ignore[arg-type]

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        return gather(gradient, ctx.axis, ctx.dim), None, None


class _Join(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, axis: Axis, dim: int) -> Tensor:
        ctx.axis, ctx.dim = axis, dim
        return _whole(x, axis, dim)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        return part(gradient, ctx.axis, ctx.dim), None, None


class _Part(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, axis: Axis, dim: int) -> Tensor:
        ctx.axis, ctx.dim = axis, dim
        return _own(x, axis, dim).clone(memory_format=torch.contiguous_format)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        return join(gradient, ctx.axis, ctx.dim), None, None


class _Swap(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, axis: Axis, split: int, concatenate: int) -> Tensor:
        ctx.axis, ctx.dims = axis, (split, concatenate)
        out = torch.cat(_parts(x, axis, split)).contiguous()
        back = functional.all_to_all_single(out, None, None, axis.group)  # type: ignore[arg-type]
        return torch.cat(functional.wait_tensor(back).chunk(axis.degree), concatenate)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        split, concatenate = ctx.dims
        return swap(gradient, ctx.axis, concatenate, split), None, None, None


class _Exchange(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, axis: Axis, sent: tuple[int, ...], received: tuple[int, ...]) -> Tensor:
        ctx.axis, ctx.counts = axis, (sent, received)
        return _ready(functional.all_to_all_single(x.contiguous(), list(received), list(sent), axis.group))  # type: ignore[arg-type]

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        sent, received = ctx.counts
        return exchange(gradient, ctx.axis, received, sent), None, None, None
