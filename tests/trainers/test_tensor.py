"""Split linears equal whole ones: forward, backward, and the gradient of a gradient."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from shardwright.models.entry import TensorPlan
from shardwright.trainers.layout import Layout
from shardwright.trainers.mesh import build_mesh
from shardwright.trainers.tensor import split_layers
from shardwright.trainers.world import Worker
from torch import Tensor, nn
from torch.distributed.tensor import DTensor


class Layer(nn.Module):
    """Two linears around a smooth function."""

    def __init__(self) -> None:
        super().__init__()
        self.expand, self.contract = nn.Linear(6, 8), nn.Linear(8, 6)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.contract(torch.tanh(self.expand(x)))
        return result


def penalised(layer: nn.Module, x: Tensor) -> Tensor:
    """A loss with a penalty on its gradient by the input, as WGAN-GP has it."""
    x = x.clone().requires_grad_()
    loss = layer(x).square().sum()
    (slope,) = torch.autograd.grad(loss, x, create_graph=True)
    return loss + slope.square().sum()


def gradients(worker: Worker, inputs: list[str]) -> dict[str, float]:
    """Largest differences of the split layer's loss and gradients from the whole one's."""
    torch.manual_seed(0)
    whole, x = Layer(), torch.randn(3, 6)
    split = Layer()
    split.load_state_dict(whole.state_dict())
    axis = build_mesh(Layout(tensor=2), worker.rank, worker.device).axis("tensor")
    assert axis is not None
    program = nn.ModuleDict({"layer": split})
    plan = TensorPlan(("layer.expand",), ("layer.contract",), tuple(inputs))
    split_layers(program, plan, axis)
    losses = [penalised(whole, x), penalised(split, x)]
    for loss in losses:
        loss.backward()
    found = {"loss": (losses[0] - losses[1]).abs().item()}
    for (name, a), (_, b) in zip(whole.named_parameters(), split.named_parameters(), strict=True):
        assert a.grad is not None and b.grad is not None
        gathered = b.grad.full_tensor() if isinstance(b.grad, DTensor) else b.grad
        found[name] = ((a.grad - gathered).abs().max() / a.grad.abs().max()).item()
    return found


@pytest.mark.parametrize("inputs", [[], ["layer"]])
def test_a_gradient_of_a_gradient_is_right(ranks: Callable[..., list[Any]], inputs: list[str]) -> None:
    for found in ranks(gradients, 2, inputs=inputs):
        assert all(value < 1e-5 for value in found.values()), found


def refused(worker: Worker, columns: list[str]) -> str:
    axis = build_mesh(Layout(tensor=2), worker.rank, worker.device).axis("tensor")
    assert axis is not None
    program = nn.ModuleDict({"odd": nn.Linear(4, 3), "norm": nn.LayerNorm(4)})
    try:
        split_layers(program, TensorPlan(tuple(columns), ()), axis)
    except ValueError as error:
        return str(error)
    return ""


def test_what_cannot_be_split_is_said(ranks: Callable[..., list[Any]]) -> None:
    assert ranks(refused, 2, columns=["odd"])[0] == "tensor=2 does not divide the 3 features of odd"
    assert "norm, which is LayerNorm, not nn.Linear" in ranks(refused, 2, columns=["norm"])[0]
