"""Every engine gives the result of one process; and what its defaults would do does not."""

from collections.abc import Callable
from typing import Any

import pytest
from shardwright.jobs.verify import verify
from shardwright.trainers.layout import parse_strategy
from shardwright.trainers.world import Worker

TOLERANCE = 1e-5
CONFIG = {"vocab_size": 64, "context": 16, "width": 32, "layers": 4, "dropout": 0.1}
STRATEGIES = [
    "deepspeed_zero1",
    "deepspeed_zero2",
    "deepspeed_zero3",
    "deepspeed_zero3_offload",
    "deepspeed_zero3x3",  # no parameter divides by three
    "deepspeed_pipeline2",
    "fairscale_oss",
    "fairscale_zero1x3",
    "fairscale_pipeline2",
    "horovod",
]


def differences(
    worker: Worker, strategy: str, model: str = "gpt2", fault: str = "", optimizer: Any = None
) -> dict[str, float] | None:
    if fault:
        FAULTS[fault]()
    return verify(worker, model, "tiny", CONFIG if model == "gpt2" else {}, "", strategy, optimizer or {})


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_an_engine_never_changes_the_result(ranks: Callable[..., list[Any]], strategy: str) -> None:
    pytest.importorskip(parse_strategy(strategy).engine, reason="the engine is not installed")
    found = ranks(differences, parse_strategy(strategy).world_size, strategy=strategy, deadline=120)[0]
    assert all(value <= TOLERANCE for value in found.values()), found


@pytest.mark.parametrize("strategy", ["deepspeed_zero2", "deepspeed_zero3", "fairscale_oss", "horovod"])
def test_groups_of_parameters_and_frozen_ones(ranks: Callable[..., list[Any]], strategy: str) -> None:
    pytest.importorskip(parse_strategy(strategy).engine, reason="the engine is not installed")
    groups = {"embed.*": {"lr": 0.5, "weight_decay": 0.0}, "blocks.1.*": {"frozen": True}}
    found = ranks(differences, 2, strategy=strategy, optimizer={"groups": groups}, deadline=120)[0]
    assert all(value <= TOLERANCE for value in found.values()), found


@pytest.mark.parametrize("strategy", ["fairscale_oss", "horovod"])
def test_phases_in_turn(ranks: Callable[..., list[Any]], strategy: str) -> None:
    pytest.importorskip(parse_strategy(strategy).engine, reason="the engine is not installed")
    found = ranks(differences, 2, strategy=strategy, model="ppo")[0]
    assert all(value <= TOLERANCE for value in found.values()), found


def clipping_left_at_its_default() -> None:
    """DeepSpeed's own clipping is 1.0, of averages over what was summed, where nothing is said."""
    from shardwright.trainers.engines import deepspeed

    stated = deepspeed.settings

    def unsaid(layout: Any) -> dict[str, Any]:
        return {key: value for key, value in stated(layout).items() if key != "gradient_clipping"}

    deepspeed.settings = unsaid


def averages_taken_for_sums() -> None:
    """DeepSpeed divides gradients by the ranks."""
    from shardwright.trainers.engines import deepspeed

    init = deepspeed.DeepSpeedModel.__init__

    def built(self: Any, *args: Any) -> None:
        init(self, *args)
        self.ranks = 1

    deepspeed.DeepSpeedModel.__init__ = built


def buckets_of_shardedddp() -> None:
    """With its default buckets and gradients cleared to None, ShardedDDP reduces something else from step 2 on."""
    import fairscale.nn.data_parallel as parallel

    original = parallel.ShardedDataParallel
    parallel.ShardedDataParallel = lambda *args, **how: original(*args, **how | {"reduce_buffer_size": 2**23})


def broadcast_of_a_fresh_optimizer() -> None:
    """Horovod's broadcast makes an update with zero gradients, and AdamW decays the weights."""
    import horovod.torch as hvd
    from shardwright.trainers.engines.horovod import HorovodOptimizer

    make = HorovodOptimizer._materialise

    def broadcast(self: HorovodOptimizer) -> None:
        hvd.broadcast_optimizer_state(self.rule, root_rank=0)
        make(self)

    HorovodOptimizer._materialise = broadcast


FAULTS = {
    fault.__name__: fault
    for fault in (
        clipping_left_at_its_default,
        averages_taken_for_sums,
        buckets_of_shardedddp,
        broadcast_of_a_fresh_optimizer,
    )
}


@pytest.mark.parametrize(
    ("fault", "strategy"),
    [
        ("clipping_left_at_its_default", "deepspeed_zero1"),
        ("averages_taken_for_sums", "deepspeed_zero3"),
        ("buckets_of_shardedddp", "fairscale_oss"),
        ("broadcast_of_a_fresh_optimizer", "horovod"),
    ],
)
def test_a_planted_fault_is_found(ranks: Callable[..., list[Any]], fault: str, strategy: str) -> None:
    pytest.importorskip(parse_strategy(strategy).engine, reason="the engine is not installed")
    found = ranks(differences, 2, strategy=strategy, fault=fault, deadline=120)[0]
    assert any(not value <= TOLERANCE for value in found.values()), found
