"""How is a layer split over the tensor axis? Column and row linears (Shoeybi et al. 2019, Megatron-LM).

Weights become DTensors, so that a checkpoint knows their place; the arithmetic is on local tensors. `enter` and
`leave` are each other's gradient, so the split holds to any order of differentiation.
"""

from collections.abc import Iterable
from fnmatch import fnmatchcase
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import Shard, distribute_tensor

from ..models.entry import TensorPlan
from .parts import local


class _Enter(torch.autograd.Function):
    """Identity forward; backward sums the gradients of the axis' ranks, each of which saw its own columns."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, group: dist.ProcessGroup) -> Tensor:
        ctx.group = group
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return _Leave.apply(gradient, ctx.group), None


class _Leave(torch.autograd.Function):
    """Sum of the ranks' partial results; the identity backward."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, group: dist.ProcessGroup) -> Tensor:
        ctx.group = group
        total = x.clone(memory_format=torch.contiguous_format)  # gloo reads permuted strides wrongly
        dist.all_reduce(total, group=group)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return _Enter.apply(gradient, ctx.group), None


def _split(parameter: Tensor, axis: DeviceMesh, dim: int) -> nn.Parameter:
    """A rank's shard of a parameter that every rank holds in full; no communication."""
    split = distribute_tensor(parameter.data, axis, [Shard(dim)], src_data_rank=None)
    return nn.Parameter(split, requires_grad=parameter.requires_grad)


class ColumnLinear(nn.Module):
    """x [..., in] -> this rank's columns [..., out / degree]."""

    def __init__(self, linear: nn.Linear, axis: DeviceMesh, enters: bool) -> None:
        super().__init__()
        self.group = axis.get_group()
        self.enters = enters  # False: the module around it has entered the split region already
        self.weight = _split(linear.weight, axis, 0)
        self.bias = None if linear.bias is None else _split(linear.bias, axis, 0)

    def forward(self, x: Tensor) -> Tensor:
        if self.enters:
            x = _Enter.apply(x, self.group)
        return F.linear(x, local(self.weight), None if self.bias is None else local(self.bias))


class RowLinear(nn.Module):
    """This rank's columns of x [..., in / degree] -> the whole result [..., out]."""

    def __init__(self, linear: nn.Linear, axis: DeviceMesh) -> None:
        super().__init__()
        self.group = axis.get_group()
        self.weight = _split(linear.weight, axis, 1)
        self.bias = linear.bias  # added once, after the sum: the same on every rank

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = _Leave.apply(F.linear(x, local(self.weight)), self.group)
        return y if self.bias is None else y + self.bias


def _matches(path: str, patterns: Iterable[str]) -> bool:
    return any(fnmatchcase(path, pattern) for pattern in patterns)


def split_layers(program: nn.Module, plan: TensorPlan, axis: DeviceMesh) -> None:
    """Replace the plan's linears by their split forms, in place.

    Raises:
        ValueError: a module of the plan is not an nn.Linear, or its size is no multiple of the degree.
    """
    degree, index, group = axis.size(), axis.get_local_rank(), axis.get_group()
    for path, module in list(program.named_modules()):
        if _matches(path, plan.sliced):
            module.tensor_slice = (index, degree)
        if _matches(path, plan.inputs):
            module.register_forward_pre_hook(lambda _, inputs: (_Enter.apply(inputs[0], group), *inputs[1:]))
        column, row = _matches(path, plan.columns), _matches(path, plan.rows)
        if not (column or row):
            continue
        if not isinstance(module, nn.Linear):
            raise ValueError(f"the tensor plan names {path}, which is {type(module).__name__}, not nn.Linear")
        features = module.out_features if column else module.in_features
        if features % degree:
            raise ValueError(f"tensor={degree} does not divide the {features} features of {path}")
        above, _, name = path.rpartition(".")
        entered = any(_matches(above, (pattern,)) for pattern in plan.inputs)
        split = ColumnLinear(module, axis, enters=not entered) if column else RowLinear(module, axis)
        setattr(program.get_submodule(above), name, split)
