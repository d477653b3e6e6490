"""Is the loss over a split vocabulary the whole one, and its embedding and projection with it?"""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from shardwright.models.axes import ALONE, Axes
from shardwright.models.layers.collectives import enter
from shardwright.models.layers.cross_entropy import cross_entropy
from shardwright.models.layers.embedding import Embedding
from shardwright.models.layers.head import Head
from shardwright.trainers.layout import Layout
from shardwright.trainers.mesh import build_mesh
from shardwright.trainers.world import Worker
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

ROWS, WIDTH, VOCABULARY = 30, 6, 12


def inputs() -> tuple[Tensor, Tensor, Tensor]:
    """Rows, the whole projection, and targets of which some count for nothing; logits large enough to overflow."""
    random = torch.Generator().manual_seed(0)
    x = torch.randn(ROWS, WIDTH, generator=random)
    weight = 40.0 * torch.randn(VOCABULARY, WIDTH, generator=random)
    targets = torch.randint(VOCABULARY, (ROWS,), generator=random)
    targets[::4] = -100
    return x, weight, targets


def split_loss(worker: Worker, chunks: list[int]) -> list[list[Any]]:
    """Sum, count and gradients of this rank's part of the projection, for each size of a chunk."""
    axis = build_mesh(Layout(tensor=2), worker.rank, worker.device).axes.tensor
    found = []
    for chunk in chunks:
        x, weight, targets = inputs()
        x, own = x.requires_grad_(), weight.chunk(2)[axis.index].clone().requires_grad_()
        total, count = cross_entropy(enter(x.view(5, 6, -1), axis), own, targets.view(5, 6), chunk, axis)
        by_x, by_weight = torch.autograd.grad(3.0 * total, (x, own))
        found.append([total.tolist(), count.tolist(), by_x.tolist(), by_weight.tolist()])
    return found


CHUNKS = [1, 6 * 7, 6 * 29, 6 * 30]  # the last one holds all rows of a rank's logits


def test_every_chunk_size_gives_the_whole_loss_and_its_gradients(ranks: Callable[..., list[Any]]) -> None:
    x, weight, targets = inputs()
    x, weight = x.requires_grad_(), weight.requires_grad_()
    total, count = cross_entropy(x, weight, targets, VOCABULARY * ROWS)
    by_x, by_weight = torch.autograd.grad(3.0 * total, (x, weight))
    for rank, sizes in enumerate(ranks(split_loss, 2, chunks=CHUNKS)):
        for found in sizes:
            wanted = [total, count, by_x, by_weight.chunk(2)[rank]]
            for mine, oracle in zip(found, wanted, strict=True):
                bound = 1e-5 * float(oracle.detach().abs().max())
                torch.testing.assert_close(torch.tensor(mine), oracle.detach(), rtol=1e-5, atol=bound)


class Largest(TorchDispatchMode):
    """Records the most elements of any tensor that an operation returns."""

    elements = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        if isinstance(result, Tensor):
            self.elements = max(self.elements, result.numel())
        return result


def largest_tensor(worker: Worker) -> int:
    axis = build_mesh(Layout(tensor=2), worker.rank, worker.device).axes.tensor
    x = torch.randn(512, 4, requires_grad=True)
    own = torch.randn(128, 4, requires_grad=True)
    with Largest() as largest:
        total, _ = cross_entropy(x, own, torch.zeros(512, dtype=torch.int64), 32 * 128, axis)
        total.backward()
    return largest.elements


def test_logits_of_a_rank_never_exist_at_once(ranks: Callable[..., list[Any]]) -> None:
    assert max(ranks(largest_tensor, 2)) <= 32 * 128


def ends(program: nn.ModuleDict, axes: Axes, degree: int) -> list[Tensor]:
    """Logits and gradients of a model that is only an embedding and a head with the same weight."""
    for module in program.modules():
        if hasattr(module, "axes"):
            module.axes = axes
    ids = torch.arange(24).view(2, 12) % VOCABULARY
    answer = program["head"](program["embed"](ids), ids.roll(-1, 1))
    logits = program["head"](program["embed"](ids), None)["logits"]
    return [
        logits.detach(),
        answer["loss"][0].detach(),
        *torch.autograd.grad(answer["loss"][0], program["embed"].weight),
    ]


def split_ends(worker: Worker, sequence: bool, split: bool) -> list[Any]:
    axes = build_mesh(Layout(tensor=2, sequence=sequence), worker.rank, worker.device).axes
    torch.manual_seed(0)
    embed = Embedding(VOCABULARY, WIDTH)
    head = Head(nn.Identity(), embed.weight)
    if split:
        embed.weight = head.weight = nn.Parameter(embed.weight.detach().chunk(2)[axes.tensor.index].clone())
    return [tensor.tolist() for tensor in ends(nn.ModuleDict({"embed": embed, "head": head}), axes, 2)]


@pytest.mark.parametrize("split", [False, True])
@pytest.mark.parametrize("sequence", [False, True])
def test_embedding_and_head_over_a_split_vocabulary(
    ranks: Callable[..., list[Any]], sequence: bool, split: bool
) -> None:
    torch.manual_seed(0)
    embed = Embedding(VOCABULARY, WIDTH)
    logits, loss, gradient = ends(nn.ModuleDict({"embed": embed, "head": Head(nn.Identity(), embed.weight)}), ALONE, 1)
    for rank, found in enumerate(ranks(split_ends, 2, sequence=sequence, split=split)):
        own = gradient.chunk(2)[rank] if split else gradient
        for mine, oracle in zip(found, (logits, loss, own), strict=True):
            torch.testing.assert_close(torch.tensor(mine), oracle)
