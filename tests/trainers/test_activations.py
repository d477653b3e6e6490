"""What is kept for backward changes memory, not gradients; bytes change them by what is stated."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from shardwright.jobs.verify import token_batches
from shardwright.models.catalog import configure, find
from shardwright.trainers.activations import from_bytes, to_bytes
from shardwright.trainers.layout import parse_strategy
from shardwright.trainers.mesh import build_mesh
from shardwright.trainers.parallelize import parallelize
from shardwright.trainers.world import Worker
from torch.distributed.tensor import DTensor

SMALL = {"vocab_size": 64, "context": 16, "width": 32, "layers": 2, "dropout": 0.1}


@given(st.integers(1, 5), st.integers(1, 40), st.floats(1e-6, 1e6))
def test_bytes_are_off_by_at_most_half_a_step_of_their_row(rows: int, columns: int, size: float) -> None:
    x = torch.linspace(-1, 1, rows * columns).view(rows, columns).sin() * size
    error = (from_bytes(*to_bytes(x)) - x).abs()
    assert (error <= x.abs().amax(-1, keepdim=True) / 254 * 1.0001).all()


def test_a_row_of_zeros_stays_zero() -> None:
    assert not from_bytes(*to_bytes(torch.zeros(2, 3))).any()


def kept(worker: Worker, strategy: str, **how: Any) -> dict[str, Any]:
    """Bytes that autograd keeps in one forward, and the gradients after backward."""
    entry, layout = find("gpt2"), parse_strategy(strategy)
    config = configure(entry, "tiny", SMALL)
    sharded = parallelize(entry, config, build_mesh(layout, worker.rank, worker.device), seed=0, tokens=16, **how)
    (batch,) = token_batches(64, 16, 1, 1)[0]
    storages: dict[int, int] = {}

    def note(x: torch.Tensor) -> torch.Tensor:
        storages[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
        return x

    with torch.autograd.graph.saved_tensors_hooks(note, lambda x: x):
        sharded.program.train()
        sharded.program(batch)
    sharded.run([batch])
    gradients = {n: p.grad for n, p in sharded.parameters.items() if p.grad is not None}
    whole = {n: (g.full_tensor() if isinstance(g, DTensor) else g).flatten().tolist() for n, g in gradients.items()}
    return {"bytes": sum(storages.values()), "gradients": whole}


def furthest(a: dict[str, list[float]], b: dict[str, list[float]]) -> float:
    """Largest difference relative to the largest gradient."""
    pairs = [(x, y) for name in a for x, y in zip(a[name], b[name], strict=True)]
    return max(abs(x - y) for x, y in pairs) / max(abs(x) for x, _ in pairs)


@pytest.mark.parametrize("strategy", ["ddpx1", "zero3", "tensor2"])
@pytest.mark.parametrize("how", ["selective", "full"])
def test_recomputed_gradients_are_bit_equal(ranks: Callable[..., list[Any]], strategy: str, how: str) -> None:
    size = parse_strategy(strategy).world_size
    plain = ranks(kept, size, strategy=strategy)[0]
    again = ranks(kept, size, strategy=strategy, recompute=how)[0]
    assert again["gradients"] == plain["gradients"]


def test_less_is_kept(ranks: Callable[..., list[Any]]) -> None:
    sizes = {how: ranks(kept, 1, strategy="ddpx1", recompute=how)[0]["bytes"] for how in ("none", "full")}
    assert sizes["full"] < 0.7 * sizes["none"]


@pytest.mark.parametrize("strategy", ["ddpx1", "zero3", "tensor2"])
def test_bytes_change_gradients_by_what_is_stated(ranks: Callable[..., list[Any]], strategy: str) -> None:
    size = parse_strategy(strategy).world_size
    plain = ranks(kept, size, strategy=strategy)[0]
    rough = ranks(kept, size, strategy=strategy, activations="int8")[0]
    assert 0.0 < furthest(plain["gradients"], rough["gradients"]) < 1e-2  # docs/plan.md states it


def test_bytes_of_what_is_computed_again_are_refused(ranks: Callable[..., list[Any]]) -> None:
    with pytest.raises(Exception, match=r"keeps what train\.recompute"):
        ranks(kept, 1, strategy="ddpx1", activations="int8", recompute="full")
