"""Is every collective the function that its table says: forward, gradient, and the gradient of a gradient?

The ranks' functions are written down in one process, whose autograd is the oracle. Numbers are float64.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from shardwright.cluster.pool import Pool
from shardwright.models.axes import Axis
from shardwright.models.layers import collectives as own
from shardwright.trainers.layout import Layout
from shardwright.trainers.mesh import build_mesh
from shardwright.trainers.world import Worker
from torch import Tensor

SENT = [[1, 3, 0, 2], [0, 0, 0, 6], [2, 2, 1, 1], [6, 0, 0, 0]]  # rows of exchange: from each rank, to each rank


def sent(ranks: int) -> list[list[int]]:
    """Rows from each rank to each rank; all of the last row goes to the first rank, whatever the number."""
    return [[*row[: ranks - 1], 6 - sum(row[: ranks - 1])] for row in SENT[:ranks]]


def exchanged(xs: list[Tensor]) -> list[Tensor]:
    counts = sent(len(xs))
    parts = [x.split(row) for x, row in zip(xs, counts, strict=True)]
    return [torch.cat([part[rank] for part in parts]) for rank in range(len(xs))]


def swapped(xs: list[Tensor]) -> list[Tensor]:
    parts = [x.chunk(len(xs), 1) for x in xs]
    return [torch.cat([part[rank] for part in parts], 2) for rank in range(len(xs))]


@dataclass(frozen=True)
class Case:
    """A collective, what it means in one process, and who holds the same numbers."""

    function: Callable[[Tensor, Axis], Tensor]
    meaning: Callable[[list[Tensor]], list[Tensor]]  # every rank's input -> every rank's output
    alike_before: bool = False  # all ranks have the same input
    alike_after: bool = False  # all ranks go on with the same output


CASES = {
    "enter": Case(own.enter, lambda xs: xs, alike_before=True),
    "leave": Case(own.leave, lambda xs: [sum(xs)] * len(xs), alike_after=True),
    "total": Case(own.total, lambda xs: [sum(xs)] * len(xs)),
    "gather": Case(lambda x, axis: own.gather(x, axis, 1), lambda xs: [torch.cat(xs, 1)] * len(xs)),
    "scatter": Case(lambda x, axis: own.scatter(x, axis, 1), lambda xs: list(sum(xs).chunk(len(xs), 1))),
    "join": Case(lambda x, axis: own.join(x, axis, 1), lambda xs: [torch.cat(xs, 1)] * len(xs), alike_after=True),
    "part": Case(lambda x, axis: own.part(x, axis, 1), lambda xs: list(xs[0].chunk(len(xs), 1)), alike_before=True),
    "swap": Case(lambda x, axis: own.swap(x, axis, 1, 2), swapped),
    "exchange": Case(
        lambda x, axis: own.exchange(
            x, axis, sent(axis.degree)[axis.index], [c[axis.index] for c in sent(axis.degree)]
        ),
        exchanged,
    ),
}


def cube(x: Tensor, salt: int) -> Tensor:
    """A scalar whose third derivative is not zero, with a weight for each number."""
    weights = torch.arange(1.0, x.numel() + 1, dtype=x.dtype).sin().view_as(x) + salt
    return (weights * x**3).sum()


def start(rank: int) -> Tensor:
    """An input [6, 4, 3] whose strides are not those of its shape, as gloo reads wrongly."""
    random = torch.Generator().manual_seed(rank)
    return torch.randn(3, 4, 6, generator=random, dtype=torch.float64).transpose(0, 2)


def derivatives(worker: Worker) -> dict[str, list[Any]]:
    """Output, gradient and second gradient of this rank, of every case."""
    axis = build_mesh(Layout(tensor=torch.distributed.get_world_size()), worker.rank, worker.device).axes.tensor
    return {name: derivatives_of(case, axis) for name, case in CASES.items()}


def derivatives_of(case: Case, axis: Axis) -> list[Any]:
    x = start(0 if case.alike_before else axis.index).requires_grad_()
    y = case.function(x, axis)
    (first,) = torch.autograd.grad(cube(y, 0 if case.alike_after else axis.index), x, create_graph=True)
    (second,) = torch.autograd.grad(cube(first, 0 if case.alike_before else axis.index), x)
    return [tensor.tolist() for tensor in (y, first, second)]


def expected(case: Case, ranks: int) -> list[list[Tensor]]:
    """The same of every rank, in one process: what all ranks have alike counts once."""
    xs = [start(rank).requires_grad_() for rank in range(ranks)]
    xs = xs[:1] * ranks if case.alike_before else xs
    ys = case.meaning(xs)
    once = xs[:1] if case.alike_before else xs
    whole = sum(cube(y, rank) for rank, y in enumerate(ys[:1] if case.alike_after else ys))
    first = torch.autograd.grad(whole, once, create_graph=True)
    second = torch.autograd.grad(sum(cube(gradient, rank) for rank, gradient in enumerate(first)), once)
    return [[ys[rank], first[rank % len(once)], second[rank % len(once)]] for rank in range(ranks)]


@pytest.fixture(scope="module", params=[2, 4])
def found(request: pytest.FixtureRequest, pool: Pool) -> list[dict[str, list[Any]]]:
    """The derivatives of every case, by rank."""
    return pool.run(f"{__file__}:derivatives", request.param, {}, deadline=60)


@pytest.mark.parametrize("name", CASES)
def test_a_collective_differentiates_twice_as_in_one_process(found: list[dict[str, list[Any]]], name: str) -> None:
    for of_rank, wanted in zip(found, expected(CASES[name], len(found)), strict=True):
        for order, (mine, oracle) in enumerate(zip(of_rank[name], wanted, strict=True)):
            assert oracle.abs().max() > 0.1
            torch.testing.assert_close(torch.tensor(mine, dtype=torch.float64), oracle.detach(), msg=f"order {order}")


@pytest.mark.parametrize("name", CASES)
def test_one_rank_needs_no_group(name: str) -> None:
    x = start(0)
    alone = CASES[name].function(x, Axis())
    assert alone is x


def refused(worker: Worker) -> list[str]:
    axis = build_mesh(Layout(tensor=2), worker.rank, worker.device).axes.tensor
    found = []
    for function in (own.scatter, own.part, lambda x, axis, dim: own.swap(x, axis, dim, 0)):
        try:
            function(torch.zeros(2, 3), axis, 1)
        except ValueError as error:
            found.append(str(error))
    largest = own.maximum(torch.tensor([1.0, 5.0]) if worker.rank else torch.tensor([3.0, 2.0]), axis)
    return [*found, str(largest.tolist())]


def test_parts_that_do_not_divide_are_refused_and_the_largest_is_found(ranks: Callable[..., list[Any]]) -> None:
    for found in ranks(refused, 2):
        assert found == ["2 ranks do not divide dim 1 of a tensor of shape (2, 3)"] * 3 + ["[3.0, 5.0]"]
