"""Do tokens reach their experts and come back, however they are routed and wherever the experts sit?"""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from shardwright.models.axes import ALONE, Axes, Axis
from shardwright.models.layers.experts import Mixture, gated, imbalance
from shardwright.trainers.layout import parse_strategy
from shardwright.trainers.mesh import build_mesh
from shardwright.trainers.world import Worker
from torch import Tensor

WIDTH, HIDDEN, EXPERTS, CHOICES = 6, 8, 4, 2
SAMPLES, TOKENS = 2, 5  # of a rank


def mixture(bias: float) -> Mixture:
    """A mixture; a large bias sends every token to the last two experts."""
    torch.manual_seed(0)
    made = Mixture(WIDTH, HIDDEN, EXPERTS, CHOICES).double()
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    with torch.no_grad():
        made.router.weight[2:, 0] += bias
    return made


def tokens(ranks: int) -> Tensor:
    """Tokens of all ranks [ranks B, T, C], the first number of each positive."""
    x = torch.randn(ranks * SAMPLES, TOKENS, WIDTH, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    x[..., 0] = x[..., 0].abs() + 1.0
    return x


def objective(made: Mixture, x: Tensor, axes: Axes) -> Tensor:
    mixed, load = made(x)
    return (mixed**2).sum() + imbalance(load, CHOICES, axes) * x.shape[0]


def naive(made: Mixture, x: Tensor) -> Tensor:
    """The same, token by token and expert by expert."""
    probabilities = made.router(x).softmax(-1)
    largest, chosen = probabilities.topk(CHOICES, -1)
    mixed = torch.zeros_like(x)
    for place in range(x.shape[0] * x.shape[1]):
        sample, token = divmod(place, x.shape[1])
        for share, expert in zip(largest[sample, token], chosen[sample, token], strict=True):
            stacks = (stack[expert] for stack in (made.experts.gate, made.experts.up, made.experts.down))
            mixed[sample, token] += share / largest[sample, token].sum() * gated(x[sample, token], *stacks)
    often = torch.stack([(chosen == expert).double().sum() for expert in range(EXPERTS)]) / x[..., 0].numel()
    uneven = EXPERTS * (often * probabilities.flatten(0, 1).mean(0)).sum()
    return (mixed**2).sum() + uneven * x.shape[0]


@pytest.mark.parametrize("bias", [0.0, 50.0])
def test_a_mixture_is_the_sum_of_what_its_experts_give(bias: float) -> None:
    made, x = mixture(bias), tokens(1)
    found, wanted = objective(made, x, ALONE), naive(made, x)
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)  # routing is in fp32
    parameters = list(made.parameters())
    gradients = torch.autograd.grad(found, parameters)
    for mine, oracle in zip(gradients, torch.autograd.grad(wanted, parameters), strict=True):
        torch.testing.assert_close(mine, oracle, rtol=1e-5, atol=1e-5 * float(oracle.abs().max()))
    if bias:
        assert not gradients[1][:2].any() and gradients[1][2:].any(), "no token came to the first two experts"


def on_ranks(worker: Worker, bias: float) -> dict[str, list[Any]]:
    """Objective of this rank, and gradients summed over the ranks by hand; of experts those of this rank."""
    mesh = build_mesh(parse_strategy(f"expert{torch.distributed.get_world_size()}"), worker.rank, worker.device)
    axis = mesh.axes.expert
    made = mixture(bias)
    for module in made.modules():
        if hasattr(module, "axes"):
            module.axes = mesh.axes
    for name in ("gate", "up", "down"):
        own = getattr(made.experts, name).detach().chunk(axis.degree)[axis.index]
        setattr(made.experts, name, torch.nn.Parameter(own.clone()))
    found = objective(made, tokens(axis.degree).chunk(axis.degree)[axis.index], mesh.axes)
    found.backward()
    torch.distributed.all_reduce(made.router.weight.grad)
    return {name: parameter.grad.tolist() for name, parameter in made.named_parameters() if parameter.grad is not None}


@pytest.mark.parametrize("bias", [0.0, 50.0])
@pytest.mark.parametrize("degree", [2, 4])
def test_split_experts_have_the_gradients_of_whole_ones(
    ranks: Callable[..., list[Any]], degree: int, bias: float
) -> None:
    """Also where some ranks get no token at all: they take part in the exchange, and their gradients are zero."""
    made = mixture(bias)
    objective(made, tokens(degree), ALONE).backward()
    for rank, found in enumerate(ranks(on_ranks, degree, bias=bias)):
        assert len(found) == 4
        for name, parameter in made.named_parameters():
            assert parameter.grad is not None
            own = parameter.grad if "router" in name else parameter.grad.chunk(degree)[rank]
            torch.testing.assert_close(
                torch.tensor(found[name], dtype=torch.float64), own, rtol=1e-5, atol=1e-5, msg=name
            )
            assert own.any() == (name == "router.weight" or not bias or rank >= degree // 2), "who got any token"


def test_even_routing_has_an_imbalance_of_the_number_of_choices() -> None:
    even = torch.tensor([[10.0] * EXPERTS, [5.0 * CHOICES * 2] * EXPERTS])
    rows = float(even[1].sum()) / CHOICES
    even[0] = rows / EXPERTS
    assert float(imbalance(even, CHOICES, Axes(data=Axis()))) == pytest.approx(CHOICES)
    worst = torch.tensor([[rows, 0.0, 0.0, 0.0], [rows, rows, 0.0, 0.0]])
    assert float(imbalance(worst, CHOICES, ALONE)) == pytest.approx(EXPERTS)
