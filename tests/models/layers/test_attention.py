"""Does attention give the same on any layout: gathered keys, swapped heads, split heads, drawn dropout?"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from shardwright.models.axes import ALONE, Axes, Axis
from shardwright.models.draw import keys
from shardwright.models.layers.attention import Drop, attention
from shardwright.models.layers.tokens import dealt, in_order, places, tokens_of
from shardwright.trainers.context import positions
from shardwright.trainers.layout import Layout
from shardwright.trainers.mesh import build_mesh
from shardwright.trainers.world import Worker
from torch import Tensor
from torch.nn import functional as F

SAMPLES, HEADS, GROUPS, TOKENS, WIDTH = 2, 8, 4, 16, 6


def inputs() -> list[Tensor]:
    """Queries, keys, values, and weights of the outputs, all in the order of the sample."""
    random = torch.Generator().manual_seed(0)
    shapes = [(SAMPLES, heads, TOKENS, WIDTH) for heads in (HEADS, GROUPS, GROUPS, HEADS)]
    return [torch.randn(shape, generator=random, dtype=torch.float64) for shape in shapes]


def attend(tensors: list[Tensor], axes: Axes, causal: bool, p: float) -> list[Tensor]:
    """The output, and the gradients of its weighted sum by queries, keys and values."""
    *asked, weights = tensors
    asked = [x.clone().requires_grad_() for x in asked]
    drop = Drop(p, keys(0, 1, torch.arange(SAMPLES)), "attention", HEADS) if p else None
    y = attention(*asked, axes=axes, causal=causal, drop=drop)
    return [y, *torch.autograd.grad((y * weights).sum(), asked)]


def differences(worker: Worker, context: int, tensor: int, way: str) -> dict[str, float]:
    """The largest difference of this rank's tokens and heads from one process's, of all combinations."""
    layout = Layout(context=context, tensor=tensor, attention=way)
    axes = build_mesh(layout, worker.rank, worker.device).axes
    here = positions(TOKENS, axes.context, torch.device("cpu"))

    def mine(x: Tensor) -> Tensor:
        return x.chunk(tensor, 1)[axes.tensor.index].index_select(2, here)

    found = {}
    for causal in (False, True):
        for p in (0.0, 0.3):
            whole = attend(inputs(), ALONE, causal, p)
            parts = attend([mine(x) for x in inputs()], axes, causal, p)
            pairs = zip(parts, whole, strict=True)
            found[f"causal={causal}, p={p}"] = max((a - mine(b)).abs().max().item() for a, b in pairs)
    return found


@pytest.mark.parametrize("way", ["gather", "ulysses"])
@pytest.mark.parametrize(("context", "tensor"), [(2, 1), (4, 1), (2, 2)])
def test_tokens_meet_over_the_context_axis(
    ranks: Callable[..., list[Any]], context: int, tensor: int, way: str
) -> None:
    for found in ranks(differences, context * tensor, context=context, tensor=tensor, way=way):
        assert all(value < 1e-12 for value in found.values()), found


@pytest.mark.parametrize("causal", [False, True])
def test_both_ways_to_weigh_agree_with_torch(causal: bool) -> None:
    """With a drop that hits nothing, with a mask of truths, and with one of numbers."""
    query, *others, _ = inputs()
    seen = torch.rand(TOKENS, TOKENS, generator=torch.Generator().manual_seed(1)) < 0.7
    seen |= torch.eye(TOKENS, dtype=torch.bool)
    allowed = seen & torch.ones_like(seen).tril() if causal else seen
    wanted = F.scaled_dot_product_attention(query, *(x.repeat_interleave(2, 1) for x in others), attn_mask=allowed)
    numbers = torch.zeros(TOKENS, TOKENS, dtype=query.dtype).masked_fill(~seen, -torch.inf)
    for mask in (seen, numbers):
        for drop in (None, Drop(1e-12, keys(0, 0, torch.arange(SAMPLES)), "a", HEADS)):
            torch.testing.assert_close(attention(query, *others, causal=causal, mask=mask, drop=drop), wanted)


def test_the_scale_can_be_chosen() -> None:
    query, *others, _ = inputs()
    wanted = attention(query * WIDTH**0.5, *others)
    for drop in (None, Drop(1e-12, keys(0, 0, torch.arange(SAMPLES)), "a", HEADS)):
        torch.testing.assert_close(attention(query, *others, scale=1.0, drop=drop), wanted)


def test_what_needs_whole_samples_or_more_heads_is_refused() -> None:
    query, *others, _ = inputs()
    axes = Axes(context=Axis(0, 8), attention="ulysses")
    with pytest.raises(ValueError, match="needs all tokens of a sample; set context = 1"):
        attention(query, *others, axes=axes, mask=torch.ones(1, dtype=torch.bool))
    with pytest.raises(ValueError, match="ulysses: context=8 does not divide the 4 key heads of a rank"):
        attention(query, *others, axes=axes)


@pytest.mark.parametrize("degree", [1, 2, 4])
def test_two_chunks_a_rank_balance_causal_work_and_are_put_back(degree: int) -> None:
    tokens = torch.arange(16)
    there = dealt(tokens, Axis(0, degree), 0)
    assert torch.equal(in_order(there, Axis(0, degree), 0), tokens)
    work = [int((part + 1).sum()) for part in there.chunk(degree)]  # a token attends to itself and those before it
    assert len(set(work)) == 1
    assert all(
        torch.equal(part, positions(16, Axis(i, degree), tokens.device)) for i, part in enumerate(there.chunk(degree))
    )


def test_places_of_tokens_inside_and_between_split_layers() -> None:
    axes = Axes(tensor=Axis(1, 2), context=Axis(1, 2))
    position = positions(16, axes.context, torch.device("cpu"))
    batch = {"inputs": torch.zeros(3, 8, dtype=torch.int64), "position": position.expand(3, -1)}
    whole = tokens_of(batch, axes)
    assert whole.whole == 16 and torch.equal(whole.inside, position) and torch.equal(whole.between, position)
    split = tokens_of(batch, replace(axes, sequence=True))
    assert torch.equal(split.inside, position) and torch.equal(split.between, position[4:])
    alone = tokens_of({"inputs": batch["inputs"]}, replace(axes, context=Axis(), sequence=True))
    assert (alone.whole, alone.inside, alone.between) == (8, 0, 4)
    assert torch.equal(places(alone.between, 4, position.device), torch.arange(4, 8))
