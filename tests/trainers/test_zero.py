"""ZeRO-1, 2 and 3 are what they hold between two micro-batches (what they communicate: test_traffic.py)."""

from collections.abc import Callable
from typing import Any

import pytest
from shardwright.jobs.verify import token_batches
from shardwright.models.axes import local
from shardwright.models.catalog import configure, find
from shardwright.trainers.layout import parse_strategy
from shardwright.trainers.mesh import build_mesh
from shardwright.trainers.parallelize import parallelize
from shardwright.trainers.world import Worker

CONFIG = {"vocab_size": 64, "context": 16, "width": 32, "layers": 4}


def held_between(worker: Worker, strategy: str) -> float:
    """Elements of the parameters that the modules hold between two micro-batches, as a share of the whole."""
    entry = find("gpt2")
    mesh = build_mesh(parse_strategy(strategy), worker.rank, worker.device)
    sharded = parallelize(entry, configure(entry, "tiny", CONFIG), mesh, seed=0, tokens=16)
    whole = sum(p.numel() for p in sharded.parameters.values())
    seen: list[int] = []
    prepare = sharded.sync.prepare

    def look(last: bool) -> None:
        seen.append(sum(local(p).numel() for p in sharded.program.parameters()))
        prepare(last)

    sharded.sync.prepare = look  # type: ignore[method-assign]
    sharded.run(token_batches(64, 16, 2)[0])
    return seen[1] / whole


@pytest.mark.parametrize(("strategy", "share"), [("zero1", 1.0), ("zero2", 1.0), ("zero3", 0.5)])
def test_parameters_between_two_micro_batches(ranks: Callable[..., list[Any]], strategy: str, share: float) -> None:
    for found in ranks(held_between, 2, strategy=strategy):
        assert found == pytest.approx(share, rel=0.02)
