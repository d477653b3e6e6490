"""Ranks that part ways are told so, by name, instead of waiting for ever."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
import torch.distributed as dist
from shardwright.cluster.call import RankFailure
from shardwright.jobs.verify import token_batches
from shardwright.models.catalog import configure, find
from shardwright.trainers import agreement
from shardwright.trainers.layout import parse_strategy
from shardwright.trainers.mesh import build_mesh
from shardwright.trainers.parallelize import parallelize
from shardwright.trainers.world import Worker

SMALL = {"vocab_size": 64, "context": 16, "width": 32, "layers": 2}


def step(worker: Worker, strategy: str, fault: str = "") -> str:
    agreement.PATIENCE = timedelta(seconds=3)
    agreement.Agreement.__init__.__defaults__ = (timedelta(seconds=3),)
    entry, layout = find("gpt2"), parse_strategy(strategy)
    config = configure(entry, "tiny", SMALL)
    mesh = build_mesh(layout, worker.rank, worker.device)
    sharded = parallelize(entry, config, mesh, seed=0, tokens=16, debug=True)
    batches = token_batches(64, 16, 2, 1)[0]
    if fault == "skips a unit" and worker.rank == 1:
        block = sharded.program.blocks["1"]
        block.forward = lambda x, *_: x
        block._forward_hooks.clear()
        block._forward_pre_hooks.clear()
    if fault == "one micro-batch less" and worker.rank == 1:
        batches = batches[:1]
    if fault == "never comes" and worker.rank == 1:
        dist.distributed_c10d._get_default_store().wait(["never"], timedelta(seconds=20))
    sharded.run(batches)
    sharded.run(batches)
    return "agreed"


@pytest.mark.parametrize("strategy", ["ddp", "zero3", "tensor2", "pipeline2", "zero3_pipeline2"])
def test_ranks_that_agree_go_on(ranks: Callable[..., list[Any]], strategy: str) -> None:
    size = parse_strategy(strategy).world_size
    assert ranks(step, size, strategy=strategy) == ["agreed"] * size


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("skips a unit", r"comes to the forward of blocks.1, rank 1 to the forward of head"),
        (
            "one micro-batch less",
            r"comes to the (forward of embed, rank 1 to the end|end of a step, rank 0 to the forw)",
        ),
        ("never comes", r"rank 0 comes to the beginning of a step, and rank 1 has said nothing for 3 s"),
    ],
)
@pytest.mark.parametrize("strategy", ["ddp", "tensor2"])
def test_a_mismatch_is_named(ranks: Callable[..., list[Any]], strategy: str, fault: str, message: str) -> None:
    with pytest.raises(RankFailure, match=message):
        ranks(step, 2, deadline=40, strategy=strategy, fault=fault)
