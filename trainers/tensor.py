"""How is a layer split over the tensor axis, and an expert stack over the expert axis?

Linear and convolution layers become column and row layers (Shoeybi et al. 2019, Megatron-LM); modules that split their
own arithmetic keep it, and have their tensors cut. Weights become DTensors, so that a checkpoint knows their place;
the arithmetic is on local tensors, between collectives that hold to any order of differentiation.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from fnmatch import fnmatchcase
from functools import partial
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Shard, distribute_tensor

from ..models.axes import Axes, local
from ..models.entry import Entry, TensorPlan
from ..models.layers.regions import into, out_of
from .mesh import Mesh

CONVOLUTIONS: Mapping[type[nn.Module], Callable[..., Tensor]] = {
    nn.Conv1d: F.conv1d,
    nn.Conv2d: F.conv2d,
    nn.Conv3d: F.conv3d,
    nn.ConvTranspose1d: F.conv_transpose1d,
    nn.ConvTranspose2d: F.conv_transpose2d,
    nn.ConvTranspose3d: F.conv_transpose3d,
}
Layer = Callable[[Tensor, Tensor, Tensor | None], Tensor]  # (x, weight, bias) -> y


class Column(nn.Module):
    """x with all features -> this rank's share of the output features."""

    bias: nn.Parameter | None

    def __init__(self, layer: Any, axis: DeviceMesh, axes: Axes, enters: bool) -> None:
        super().__init__()
        self.arithmetic, self.axes = arithmetic(layer), axes
        self.enters = enters  # False: the module around it has entered the split region already
        self.weight = split_parameter(layer.weight, axis, output_dim(layer))
        self.bias = None if layer.bias is None else split_parameter(layer.bias, axis, 0)

    def forward(self, x: Tensor) -> Tensor:
        if self.enters:
            x = into(x, self.axes)
        return self.arithmetic(x, local(self.weight), None if self.bias is None else local(self.bias))


class Row(nn.Module):
    """x with this rank's share of the features -> the whole output; with sequence parallel, of this rank's tokens."""

    bias: nn.Parameter | None

    def __init__(self, layer: Any, axis: DeviceMesh, axes: Axes) -> None:
        super().__init__()
        self.arithmetic, self.axes = arithmetic(layer), axes
        self.weight = split_parameter(layer.weight, axis, 1 - output_dim(layer))
        self.bias = layer.bias  # added once, after the sum: the same on every rank
        self.trailing = self.weight.ndim - 2  # dims behind the features

    def forward(self, x: Tensor) -> Tensor:
        y = out_of(self.arithmetic(x, local(self.weight), None), self.axes)
        if self.bias is None:
            return y
        return y + self.bias.view(-1, *[1] * self.trailing)


def arithmetic(layer: Any) -> Layer:
    """What a linear or convolution layer computes from its input and its own or other weights.

    Raises:
        ValueError: the layer is of another kind, or a convolution of several groups or an unusual padding.
    """
    if isinstance(layer, nn.Linear):
        return F.linear
    convolution = CONVOLUTIONS.get(type(layer))
    if convolution is None or layer.groups != 1 or layer.padding_mode != "zeros":
        raise ValueError(f"{layer} cannot be split; the tensor plan takes nn.Linear and convolutions of one group")
    how = {"stride": layer.stride, "padding": layer.padding, "dilation": layer.dilation}
    if layer.transposed:
        how["output_padding"] = layer.output_padding
    return partial(_convolve, convolution, **how)


def output_dim(layer: nn.Module) -> int:
    """The dim of a layer's weight that is its output features; of the first two, the other one is its input's."""
    return 1 if getattr(layer, "transposed", False) else 0


def _convolve(function: Callable[..., Tensor], x: Tensor, weight: Tensor, bias: Tensor | None, **how: Any) -> Tensor:
    return function(x, weight, bias, **how)


def split_parameter(parameter: Tensor, axis: DeviceMesh, dim: int) -> nn.Parameter:
    """A rank's shard of a parameter that every rank holds in full; no communication."""
    return nn.Parameter(_split(parameter.data, axis, dim), requires_grad=parameter.requires_grad)


def _split(whole: Tensor, axis: DeviceMesh, dim: int) -> DTensor:
    return distribute_tensor(whole, axis, [Shard(dim)], src_data_rank=None)


def split_layers(program: nn.Module, plan: TensorPlan, axis: DeviceMesh, axes: Axes) -> None:
    """Split what the plan names, in place.

    Raises:
        ValueError: a module of the plan cannot be split, or its size is no multiple of the degree.
    """
    for path, module in list(program.named_modules()):
        if matches(path, plan.inputs):
            module.register_forward_pre_hook(lambda _, inputs: (into(inputs[0], axes), *inputs[1:]))
        column, row = matches(path, plan.columns), matches(path, plan.rows)
        if not (column or row):
            continue
        outputs = output_dim(module)
        check_features(path, module, outputs if column else 1 - outputs, axis.size())
        above, _, name = path.rpartition(".")
        entered = any(matches(above, (pattern,)) for pattern in plan.inputs)
        split = Column(module, axis, axes, enters=not entered) if column else Row(module, axis, axes)
        setattr(program.get_submodule(above), name, split)
    for pattern, dim in plan.own.items():
        split_tensors(program, (pattern,), axis, dim)
    rows = [
        name for name, p in _parameters(program) if matches(name, plan.vocabulary) and p.shape[0] % axis.size() == 0
    ]
    split_tensors(program, rows, axis, 0)


def partial_names(program: nn.Module, entry: Entry, config: Any) -> set[str]:
    """With sequence parallel, the parameters of a split program that are used on this rank's tokens alone."""
    plan = entry.tensor(config) if entry.tensor else TensorPlan()
    biases = {f"{path}.bias" for path, module in program.named_modules() if isinstance(module, Row)}
    return {name for name, _ in _parameters(program) if name in biases or matches(name, plan.between)}


def _parameters(program: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """Every name of every parameter, a tied one's too."""
    return program.named_parameters(remove_duplicate=False)


def check_features(path: str, layer: nn.Module, dim: int, degree: int) -> None:
    """Refuse a layer that the degree does not divide.

    Raises:
        ValueError: it does not.
    """
    weight = getattr(layer, "weight", None)
    if not isinstance(weight, Tensor) or weight.ndim < 2:
        raise ValueError(
            f"the tensor plan names {path}, which is {type(layer).__name__}, not nn.Linear or a convolution"
        )
    if weight.shape[dim] % degree:
        raise ValueError(f"tensor={degree} does not divide the {weight.shape[dim]} features of {path}")


def split_tensors(program: nn.Module, patterns: Iterable[str], axis: DeviceMesh, dim: int) -> list[nn.Parameter]:
    """Cut parameters and buffers along a dim, in place; the parameters that came out. A tied one stays one.

    Raises:
        ValueError: the degree does not divide the dim.
    """
    made: dict[int, nn.Parameter] = {}
    for path, module in program.named_modules():
        tensors = {**module._parameters, **module._buffers}
        for name, tensor in tensors.items():
            full = f"{path}.{name}" if path else name
            if tensor is None or not matches(full, patterns):
                continue
            if tensor.shape[dim] % axis.size():
                raise ValueError(
                    f"a degree of {axis.size()} does not divide dim {dim} of {full}, {tuple(tensor.shape)}"
                )
            if isinstance(tensor, nn.Parameter):
                made.setdefault(id(tensor), split_parameter(tensor, axis, dim))
                setattr(module, name, made[id(tensor)])
            else:
                setattr(module, name, _split(tensor, axis, dim))
    return list(made.values())


def split_experts(program: nn.Module, patterns: Iterable[str], mesh: Mesh) -> list[nn.Parameter]:
    """Leave each rank its own experts; the parameters that hold them, none where experts are not split.

    Raises:
        ValueError: the degree does not divide the experts.
    """
    if mesh.layout.expert == 1 or mesh.experts is None:
        return []
    made: list[nn.Parameter] = []
    for path, module in program.named_modules():
        for name, parameter in list(module._parameters.items()):
            if parameter is not None and matches(f"{path}.{name}", patterns):
                made.append(_own_experts(f"{path}.{name}", parameter, mesh.experts))
                setattr(module, name, made[-1])
    return made


def _own_experts(name: str, stack: nn.Parameter, mesh: DeviceMesh) -> nn.Parameter:
    """A rank's experts of a stack, whose other dims may be split over the tensor axis already."""
    whole, axis = local(stack.data), mesh["expert"]
    if whole.shape[0] % axis.size():
        raise ValueError(f"expert={axis.size()} does not divide the {whole.shape[0]} experts of {name}")
    own = whole.chunk(axis.size())[axis.get_local_rank()].clone()
    if isinstance(stack.data, DTensor):
        placed = (Shard(0), *stack.data.placements)
        made = DTensor.from_local(own, mesh["expert", "tensor"], placed, shape=stack.shape, stride=stack.stride())
    else:
        made = DTensor.from_local(own, axis, (Shard(0),))
    return nn.Parameter(made, requires_grad=stack.requires_grad)


def matches(path: str, patterns: Iterable[str]) -> bool:
    """Whether a path is one of the patterns."""
    return any(fnmatchcase(path, pattern) for pattern in patterns)
