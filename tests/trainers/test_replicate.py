"""Buckets sum gradients over replicas, also of parameters that took no part on one rank."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from shardwright.trainers import replicate
from shardwright.trainers.layout import Layout
from shardwright.trainers.mesh import build_mesh
from shardwright.trainers.replicate import GradientReducer, portions
from shardwright.trainers.world import Worker
from torch import nn


@given(st.lists(st.tuples(st.integers(1, 50), st.booleans()), max_size=20), st.integers(4, 400))
def test_portions_are_consecutive_of_one_dtype_and_not_too_large(sizes: list[tuple[int, bool]], most: int) -> None:
    parameters = [nn.Parameter(torch.zeros(n, dtype=torch.float64 if wide else torch.float32)) for n, wide in sizes]
    found = portions(parameters, most)
    assert [p for portion in found for p in portion] == parameters
    for portion in found:
        assert len({p.dtype for p in portion}) == 1
        assert len(portion) == 1 or sum(p.numel() * p.element_size() for p in portion) <= most


def summed(worker: Worker, bucket_bytes: int, used: list[list[int]]) -> list[list[float]]:
    """Each rank uses some of three weights in each micro-batch; the gradients after the step."""
    replicate.BUCKET_BYTES = bucket_bytes
    group = build_mesh(Layout(replicate=2), worker.rank, worker.device).group("replicate")
    assert group is not None
    weights = [nn.Parameter(torch.full((2,), float(i + 1))) for i in range(3)]
    reducer = GradientReducer(weights, group)
    for _ in range(2):  # a second step starts from zero
        reducer.zero()
        for index in range(2):
            reducer.prepare(last=index == 1)
            loss = sum((weights[i].sum() * (worker.rank + 1) for i in used[worker.rank]), torch.zeros(()))
            if loss.requires_grad:
                loss.backward()
        reducer.finish()
    return [w.grad.tolist() for w in weights if w.grad is not None]


@pytest.mark.parametrize("bucket_bytes", [1, 16, 1 << 20])
def test_gradients_are_summed_over_ranks_and_micro_batches(ranks: Callable[..., list[Any]], bucket_bytes: int) -> None:
    found = ranks(summed, 2, bucket_bytes=bucket_bytes, used=[[0, 1], [1]])
    assert found == [[[2.0, 2.0], [6.0, 6.0], [0.0, 0.0]]] * 2
