"""Is L-BFGS that of torch, in one process and where no rank holds a whole parameter?"""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from shardwright.models.catalog import configure, find
from shardwright.trainers import lbfgs, solvers
from shardwright.trainers.clock import Clock
from shardwright.trainers.data.dataset import open_data
from shardwright.trainers.data.loader import Loader
from shardwright.trainers.data.order import Order
from shardwright.trainers.layout import parse_strategy
from shardwright.trainers.mesh import build_mesh
from shardwright.trainers.options import DataOptions, OptimizerOptions
from shardwright.trainers.parallelize import build_seeded, parallelize
from shardwright.trainers.solvers import build_solver
from shardwright.trainers.step import Step
from shardwright.trainers.world import Worker
from torch.distributed.tensor import DTensor

BATCH, STEPS = 64, 6
OPTIONS = {"name": "lbfgs", "lr": 0.5, "history": 3, "iterations": 4}


def entry() -> tuple[Any, Any]:
    found = find("mlp")
    return found, configure(found, "", {"hidden": (32, 32), "activation": "tanh", "dropout": 0.0})


def ours(worker: Worker, strategy: str, fault: str = "") -> list[list[float]]:
    """(losses, all weights as one list) of the trainer's step."""
    if fault:
        FAULTS[fault]()
    (found, config), layout = entry(), parse_strategy(strategy)
    mesh = build_mesh(layout, worker.rank, worker.device)
    sharded = parallelize(found, config, mesh, seed=0, tokens=0)
    step = Step(sharded, build_solver(sharded, OptimizerOptions(**OPTIONS), clip=1e-3), lambda _: 0.5)
    data = open_data(DataOptions(name="digits"), "samples").train
    loader = Loader(data, Order(len(data), 0), 0, BATCH, mesh.data_rank, layout.data, BATCH // layout.data // 2)
    losses = [step(index, loader.load(index), False, Clock()).loss for index in range(STEPS)]
    wholes = {
        name: p.detach().full_tensor() if isinstance(p, DTensor) else p.detach()
        for name, p in sharded.parameters.items()
    }
    return [losses, torch.cat([wholes[name].flatten() for name in sorted(wholes)]).tolist()]


def torchs() -> list[list[float]]:
    found, config = entry()
    program = build_seeded(found, config, 0)
    rule = torch.optim.LBFGS(
        program.parameters(), lr=0.5, max_iter=4, history_size=3, tolerance_grad=0.0, tolerance_change=0.0
    )
    data = open_data(DataOptions(name="digits"), "samples").train
    loader = Loader(data, Order(len(data), 0), 0, BATCH, 0, 1, BATCH)
    losses = []
    for index in range(STEPS):
        (batch,) = loader.load(index)

        def closure(batch: Any = batch) -> torch.Tensor:
            rule.zero_grad()
            value, count = program(batch)["loss"]
            (value / count).backward()
            return value / count

        losses.append(rule.step(closure).item())
    weights = dict(program.named_parameters())
    return [losses, torch.cat([weights[name].detach().flatten() for name in sorted(weights)]).tolist()]


def furthest(found: list[list[float]], wanted: list[list[float]]) -> tuple[float, float]:
    loss, weight = (max(abs(a - b) for a, b in zip(x, y, strict=True)) for x, y in zip(found, wanted, strict=True))
    return loss, weight


@pytest.mark.parametrize("strategy", ["tensor1", "zero3", "tensor2", "pipeline2", "zero2_tensor2"])
def test_it_is_torchs_under_every_layout(ranks: Callable[..., list[Any]], strategy: str) -> None:
    found = ranks(ours, parse_strategy(strategy).world_size, strategy=strategy)[0]
    wanted = torchs()
    assert wanted[0][-1] < 0.8 * wanted[0][0]
    if "pipeline" in strategy:
        found, wanted = [found[0]], [wanted[0]]  # a stage has its own weights alone
        assert max(abs(a - b) for a, b in zip(found[0], wanted[0], strict=True)) < 1e-4
    else:
        assert max(furthest(found, wanted)) < 1e-4


def local_products() -> None:
    """Each rank takes the dot products of its own shards for those of the whole."""
    solvers.Part.total = lambda self, shares, shape=(): sum(shares.values(), torch.zeros(shape, dtype=torch.float64))


def copies_counted_twice() -> None:
    """What several ranks hold is counted by each."""
    original = solvers.Part.total

    def total(self: Any, shares: Any, shape: Any = ()) -> torch.Tensor:
        return original(self, {name: x * self.sharded.holders[name] for name, x in shares.items()}, shape)

    solvers.Part.total = total


FAULTS = {f.__name__: f for f in (local_products, copies_counted_twice)}


@pytest.mark.parametrize(
    ("fault", "strategy"),
    [("local_products", "zero3"), ("local_products", "tensor2"), ("copies_counted_twice", "tensor2")],
)
def test_a_planted_fault_is_found(ranks: Callable[..., list[Any]], fault: str, strategy: str) -> None:
    found = ranks(ours, parse_strategy(strategy).world_size, strategy=strategy, fault=fault)[0]
    assert max(furthest(found, torchs())) > 1e-3


def test_pairs_without_curvature_are_not_remembered() -> None:
    """Along a straight line the gradient does not change, and the direction stays the steepest one."""
    gradient, last, moved = torch.tensor([1.0, 2.0]), torch.tensor([1.0, 2.0]), torch.tensor([-0.1, -0.2])
    vectors = torch.stack((*torch.zeros(4, 2), last, moved, gradient)).double()
    new, direction = lbfgs.two_loop(vectors @ vectors.T, 2)
    assert not new
    torch.testing.assert_close(direction @ vectors, -gradient.double())


def test_groups_with_rates_of_their_own_are_refused(ranks: Callable[..., list[Any]]) -> None:
    assert "a group may only freeze" in ranks(refused, 1)[0]


def refused(worker: Worker) -> str:
    found, config = entry()
    sharded = parallelize(found, config, build_mesh(parse_strategy("tensor1"), 0, worker.device), seed=0, tokens=0)
    try:
        build_solver(sharded, OptimizerOptions(name="lbfgs", groups={"*.bias": {"lr": 0.1}}), 1.0)
    except ValueError as error:
        return str(error)
    return ""
