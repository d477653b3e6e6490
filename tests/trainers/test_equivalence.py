"""Every strategy gives the result of one process; and a planted fault does not."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from shardwright.jobs.verify import verify
from shardwright.models.program import Result
from shardwright.trainers import parallelize
from shardwright.trainers.layout import parse_strategy
from shardwright.trainers.sharded import Sharded
from shardwright.trainers.terms import Passed
from shardwright.trainers.world import Worker

TOLERANCE = 1e-5
CONFIG = {"vocab_size": 64, "context": 16, "width": 32, "layers": 4, "dropout": 0.1}
STRATEGIES = [
    "ddp",
    "zero1",
    "zero2",
    "zero3",
    "tensor2",
    "pipeline2",
    "ddpx4",
    "zero1x4",
    "zero2x4",
    "zero3x4",
    "tensor4",
    "pipeline4",
    "ddp_zero3",
    "ddp_tensor2",
    "ddp_pipeline2",
    "zero1_tensor2",
    "zero2_pipeline2",
    "tensor2_pipeline2",
    "zero3x2_tensor2_pipeline2",
    "pipeline2_gpipe",
    "pipeline2_interleaved",
    "pipeline2_zbv",
    "ddp_pipeline2_interleaved",
    "ddp_pipeline2_zbv",
    "zero2_pipeline2_interleaved",
    "zero3_pipeline2_zbv",
    "tensor2_pipeline2_zbv",
]


def differences(worker: Worker, strategy: str, fault: str = "", layers: int = 4) -> dict[str, float] | None:
    if fault:
        FAULTS[fault]()
    return verify(worker, "gpt2", "tiny", {**CONFIG, "layers": layers}, "", strategy, {})


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_layout_never_changes_the_result(ranks: Callable[..., list[Any]], strategy: str) -> None:
    found = ranks(differences, parse_strategy(strategy).world_size, strategy=strategy)[0]
    assert all(value <= TOLERANCE for value in found.values()), found


@pytest.mark.parametrize("strategy", ["pipeline4_interleaved", "pipeline4_zbv"])
def test_eight_parts_of_a_model_on_four_ranks(ranks: Callable[..., list[Any]], strategy: str) -> None:
    found = ranks(differences, 4, strategy=strategy, layers=6)[0]
    assert all(value <= TOLERANCE for value in found.values()), found


def wrong_scale() -> None:
    """Gradients averaged over the data ranks are taken for their sum."""
    from torch.distributed.fsdp import FSDPModule

    original = parallelize.shard_units

    def averaged(program: Any, *args: Any) -> Any:
        sync = original(program, *args)
        for module in program.modules():
            if isinstance(module, FSDPModule):
                module.set_gradient_divide_factor(2.0)
        return sync

    parallelize.shard_units = averaged


def local_clipping() -> None:
    """Each rank clips by the norm of its own shards."""
    from shardwright.trainers import sharded

    whole = sharded.square_share
    sharded.square_share = lambda found, holders: whole(found, [1] * len(holders)) / torch.distributed.get_world_size()


def mean_of_means() -> None:
    """Each micro-batch's loss is divided by its own count."""

    def accumulate(self: Sharded, batches: Any, *_: Any) -> Passed:
        passed = Passed()
        for index, batch in enumerate(batches):
            self.sync.prepare(last=index == len(batches) - 1)
            value, count = self.program(batch)["loss"]
            (value / count).backward()
            passed.add(index, Result({"loss": (value / count, torch.ones(()))}))
        return passed

    Sharded._accumulate = accumulate


def dropped_micro_batch() -> None:
    """The last micro-batch of a rank is lost on its way."""
    original = Sharded.run
    Sharded.run = lambda self, batches, **how: original(self, batches[:-1], **how)


def late_zero() -> None:
    """Gradients are cleared between forward and backward, through the module."""
    original = Sharded._accumulate

    def accumulate(self: Sharded, *args: Any) -> Any:
        handle = self.program.register_forward_hook(lambda *_: self.program.zero_grad())
        passed = original(self, *args)
        handle.remove()
        return passed

    Sharded._accumulate = accumulate


def no_sync() -> None:
    """One data rank keeps its gradients to itself."""

    def nothing(*_: Any) -> None:
        return None

    from shardwright.trainers.replicate import GradientReducer

    GradientReducer._ready = nothing
    GradientReducer.finish = nothing


FAULTS = {f.__name__: f for f in (wrong_scale, local_clipping, mean_of_means, dropped_micro_batch, late_zero, no_sync)}


@pytest.mark.parametrize(
    ("fault", "strategy"),
    [
        ("wrong_scale", "zero2"),
        ("local_clipping", "zero3"),
        ("local_clipping", "tensor2"),
        ("local_clipping", "pipeline2"),
        ("mean_of_means", "ddp"),
        ("dropped_micro_batch", "ddp"),
        ("dropped_micro_batch", "pipeline2"),
        ("late_zero", "zero3"),
        ("no_sync", "ddp"),
    ],
)
def test_a_planted_fault_is_found(ranks: Callable[..., list[Any]], fault: str, strategy: str) -> None:
    found = ranks(differences, parse_strategy(strategy).world_size, strategy=strategy, fault=fault)[0]
    assert any(value > TOLERANCE for value in found.values()), found
