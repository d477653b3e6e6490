"""Is a batch over several ranks normalised as torch normalises it in one process, and kept account of once?"""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.distributed as dist
from shardwright.models.axes import Axes, Axis, local
from shardwright.models.entry import TensorPlan
from shardwright.models.layers.batch_norm import BatchNorm
from shardwright.trainers.layout import Layout
from shardwright.trainers.mesh import build_mesh
from shardwright.trainers.tensor import split_layers
from shardwright.trainers.world import Worker
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

CHANNELS = 6


def values(shape: tuple[int, ...], offset: float = 0.0) -> Tensor:
    """Channels with means and deviations of their own."""
    generator = torch.Generator().manual_seed(3)
    scale = torch.arange(1.0, CHANNELS + 1).view(-1, *[1] * (len(shape) - 2))
    return torch.randn(shape, generator=generator) * scale + scale.flip(0) + offset


def weighted(norm: nn.Module) -> nn.Module:
    with torch.no_grad():
        for name in ("weight", "bias"):
            local(getattr(norm, name)).copy_(torch.linspace(0.5, 2.0, CHANNELS))
    return norm


def objective(y: Tensor, weights: Tensor) -> Tensor:
    """A loss whose gradient differs from element to element."""
    return (y.sin() * weights).sum()


def outcome(norm: nn.Module, x: Tensor) -> dict[str, Tensor]:
    """Everything that a forward and a backward give."""
    x = x.clone().requires_grad_()
    y = norm(x)
    objective(y, values(tuple(x.shape))).backward()
    found = {"y": y, "x": x.grad, "weight": norm.weight.grad, "bias": norm.bias.grad}
    found |= {"mean": norm.running_mean, "variance": norm.running_var}
    return {name: tensor.detach() for name, tensor in found.items()}


def distance(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).abs().max() / expected.abs().max())


@pytest.mark.parametrize(("shape", "oracle"), [((8, 6), nn.BatchNorm1d), ((4, 6, 3, 5), nn.BatchNorm2d)])
def test_one_rank_computes_what_torch_does(shape: tuple[int, ...], oracle: type[nn.Module]) -> None:
    ours, theirs = weighted(BatchNorm(CHANNELS)), weighted(oracle(CHANNELS))
    for _ in range(2):  # the second time with running statistics of the first
        found, expected = outcome(ours, values(shape)), outcome(theirs, values(shape))
        assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert torch.equal(ours.eval()(values(shape)), theirs.eval()(values(shape)))


def test_a_single_value_cannot_be_normalised() -> None:
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        BatchNorm(CHANNELS)(torch.ones(1, CHANNELS))


def test_low_precision_keeps_its_dtype_and_fp32_statistics() -> None:
    norm = BatchNorm(CHANNELS)
    x = values((64, CHANNELS)).bfloat16()
    assert norm(x).dtype == torch.bfloat16
    assert norm.running_mean.dtype == torch.float32
    assert torch.allclose(norm.running_mean, 0.1 * x.float().mean(0))


def over_ranks(worker: Worker, shape: list[int], offset: float, recompute: bool = False) -> dict[str, float]:
    """Distance of each rank's part from torch's one-process result; the batch is split unevenly."""
    torch.manual_seed(0)
    x = values(tuple(shape), offset)
    sizes = [shape[0] - worker.world_size + 1] + [1] * (worker.world_size - 1)
    start = sum(sizes[: worker.rank])
    rows = slice(start, start + sizes[worker.rank])
    ours = weighted(BatchNorm(CHANNELS))
    ours.axes = Axes(data=Axis(worker.rank, worker.world_size, dist.group.WORLD))
    theirs = weighted((nn.BatchNorm1d if len(shape) == 2 else nn.BatchNorm2d)(CHANNELS)).double()
    expected = outcome(theirs, x.double())
    mine = x[rows].clone().requires_grad_()
    y = checkpoint(ours, mine, use_reentrant=False, preserve_rng_state=False) if recompute else ours(mine)
    objective(y, values(tuple(shape))[rows]).backward()
    for parameter in ours.parameters():
        dist.all_reduce(parameter.grad)
    found = {"y": y, "x": mine.grad, "weight": ours.weight.grad, "bias": ours.bias.grad}
    expected["y"], expected["x"] = expected["y"][rows], expected["x"][rows]
    found |= {"mean": ours.running_mean, "variance": ours.running_var}
    return {name: distance(found[name].detach(), expected[name]) for name in expected}


@pytest.mark.parametrize(("shape", "size"), [([8, 6], 2), ([6, 6, 3, 5], 4)])
@pytest.mark.parametrize("recompute", [False, True])
def test_several_ranks_compute_what_torch_does_in_one(
    ranks: Callable[..., list[Any]], shape: list[int], size: int, recompute: bool
) -> None:
    for found in ranks(over_ranks, size, shape=shape, offset=0.0, recompute=recompute):
        assert max(found.values()) < 1e-6, found


def test_a_large_mean_costs_no_digits_of_the_variance(ranks: Callable[..., list[Any]]) -> None:
    for found in ranks(over_ranks, 2, shape=[64, 6], offset=4096.0):
        assert found["variance"] < 1e-6, found


def split_channels(worker: Worker) -> dict[str, float]:
    """A rank's channels under tensor parallel, from the same input as one process sees."""
    mesh = build_mesh(Layout(tensor=worker.world_size), worker.rank, worker.device)
    x = values((8, CHANNELS, 2))
    ours = nn.ModuleDict({"norm": weighted(BatchNorm(CHANNELS))})
    ours["norm"].axes = mesh.axes
    split_layers(ours, TensorPlan(own={"norm.*": 0}), mesh.axis("tensor"), mesh.axes.tensor)
    channels = slice(worker.rank * 3, worker.rank * 3 + 3)
    y = ours["norm"](x[:, channels])
    objective(y, values((8, CHANNELS, 2))[:, channels]).backward()
    expected = outcome(weighted(nn.BatchNorm1d(CHANNELS)), x)
    norm = ours["norm"]
    found = {
        "weight": norm.weight.grad.full_tensor(),
        "bias": norm.bias.grad.full_tensor(),
        "mean": norm.running_mean.full_tensor(),
        "variance": norm.running_var.full_tensor(),
    }
    return {name: distance(found[name], expected[name]) for name in found} | {
        "y": distance(y.detach(), expected["y"][:, channels])
    }


def test_channels_may_be_split_over_the_tensor_axis(ranks: Callable[..., list[Any]]) -> None:
    for found in ranks(split_channels, 2):
        assert max(found.values()) < 1e-6, found


def second_order(worker: Worker) -> float:
    """Distance of the gradient of a gradient's square from torch's in one process."""
    x = values((8, CHANNELS)).double()
    ours, theirs = BatchNorm(CHANNELS).double(), nn.BatchNorm1d(CHANNELS).double()
    ours.axes = Axes(data=Axis(worker.rank, worker.world_size, dist.group.WORLD))
    rows = slice(worker.rank * 4, worker.rank * 4 + 4)

    def penalty(norm: nn.Module, x: Tensor, weights: Tensor) -> Tensor:
        x = x.clone().requires_grad_()
        (slope,) = torch.autograd.grad(objective(norm(x), weights), x, create_graph=True)
        return torch.autograd.grad(slope.square().sum(), norm.weight)[0]

    found = penalty(ours, x[rows], x[rows])
    dist.all_reduce(found)
    return distance(found, penalty(theirs, x, x))


def test_a_gradient_can_be_differentiated(ranks: Callable[..., list[Any]]) -> None:
    assert max(ranks(second_order, 2)) < 1e-12
